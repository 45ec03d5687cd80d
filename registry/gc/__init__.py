"""Garbage collection: files go, records stay.

```
reachability  what must keep its files, and why
collect       removes the others
local         what only this machine has: views, cached blobs, abandoned drafts
report        what was freed
```
"""
