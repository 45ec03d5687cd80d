"""The content store: each file once, under its digest.

```
store          blobs, and directories of links to them for engines
url            store URLs
local          blobs in a directory
remote         blobs in an object store
parts          how large the parts of an upload are
remote_errors  what an object store answers, translated
s3             the S3 protocol; loaded only when used
files          regular files, safely named and read whole
```
"""
