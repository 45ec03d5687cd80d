"""Processes that outlive the command that started them.

```
process      start one, know it again, end it
reaper       stands beside it until it ends
supervisor   starts it again when it died or hangs
runtime_dir  directories for its sockets
```
"""
