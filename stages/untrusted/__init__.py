"""Files from strangers: looked at without trusting them.

```
inspect      what a directory or a file is
description  what was found, as types
huggingface  adapters, merged models, GPTQ checkpoints
gguf         GGUF files
safetensors  every byte of the layout, every number
tokenizer    tokenizers and chat templates
json         bounded JSON, no code
sandbox      a child process with little time and memory
```
"""
