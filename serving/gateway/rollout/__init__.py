"""A candidate beside the channel's own artifact.

```
decision  which of the two answers a request
shadow    the same question to a candidate, whose answer nobody sees
outcomes  what came of it, for the gate
```
"""
