"""Rules on a metric that a judge scores: what people said of some answers, and what follows for all.

```
labels  people's labels, from a file, put beside the items that they are about
claim   the difference that people would find, and why none is shown without labels
```
"""
