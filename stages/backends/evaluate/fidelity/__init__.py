"""How near one model is to another, token by token.

```
tasks      the tasks of an evaluation
distances  log-probabilities of two models, compared
intervals  their intervals
parity     tokenizer and template
weights    the tensors of a merge
layers     the matrices of a quantized file
rounding   what rounding to nearest costs
```
"""
