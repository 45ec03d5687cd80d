"""New inputs beside those that a model was trained on, and answers beside those before a moment.

```
inputs     what users wrote, of training data and of files
measures   numbers of a text: its length, its rare words, its topics
evidence   numbers of new rows as e-values, and a verdict
comparison which reference rows define the measures, and which are compared
hidden     measures of the base model's hidden states
outcomes   feedback, refusals, length and JSON of a channel's answers
```
"""
