"""Channels and what moves them.

```
channels   names that point to an artifact, moved by compare-and-swap
decisions  gate decisions: policy × evidence → verdict
policies   what an artifact has to pass in a channel
signing    signatures of decisions and exports
```
"""
