"""A candidate on live traffic, judged while it answers.

```
evidence  what gateways counted, as a sequential test
judge     decides: promote, stop for harm, give up; and does it
start     begins one, where a policy asks for it
```
"""
