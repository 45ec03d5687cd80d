"""Merge an adapter into 16-bit weights, tensor by tensor.

```
merge       plan, then stream from disk to disk
stream      several threads, each with a tensor of its own
unfinished  the files under way, which outlive a killed process
compute     one tensor, piece by piece or whole
plan        what every tensor of the merged model is made of
layout      what a model is made of, from its config
adapter     a PEFT adapter as changes to named tensors
```
"""
