"""Tasks that ask how likely a model finds texts that are given.

```
preference   which of two answers is likelier
labelled     whether good answers are likelier than bad ones
perplexity   how likely documents are
```
"""
