"""Garbage collection: files go, records stay.

```
reachability  what must keep its files, and why
collect       removes the others
```
"""
