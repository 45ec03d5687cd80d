"""What another model says of the answers.

```
prompt    what it is asked, and how answers are kept from asking it for something
opponent  the other answer of a pair
replies   what it said before, by the digest of what it was asked
endpoint  one request, tried again where that may help
running   the judge while it is needed: an endpoint, or llama.cpp with a file
verdicts  the scores of a task's items
```
"""
