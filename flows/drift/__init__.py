"""New inputs beside those that a model was trained on.

```
measures   numbers of a text: its length, its rare words, its topics
comparison the measures of new rows as e-values, and a verdict
```
"""
