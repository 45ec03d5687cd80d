"""Merge an adapter into 16-bit weights, tensor by tensor.

```
merge    plan, then stream from disk to disk
plan     what every tensor of the merged model is made of
layout   what a model is made of, from its config
adapter  a PEFT adapter as changes to named tensors
```
"""
