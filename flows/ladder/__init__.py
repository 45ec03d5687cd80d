"""The ladder: is each form of the model still what it was made from, and where not, why?

```
model     rungs, evidence and findings as values
evidence  of a run, from its artifacts
ladder    climbs it
checks    what each rung has to stand; distance, finding
rows      the ladder in words
```
"""
