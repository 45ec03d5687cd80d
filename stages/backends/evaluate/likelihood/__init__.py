"""Tasks that ask how likely a model finds texts that are given.

```
preference   which of two answers is likelier
perplexity   how likely documents are
```
"""
