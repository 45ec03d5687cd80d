"""What needs torch, transformers and their companions; nothing else in the product imports these.

```
train, merge, gptq, gguf, evaluate   a package for each
bases, hub         where a base comes from
nf4                NF4 weights, loaded and checked
chat, token_offsets, rendering   chats as the model sees them
tokenizer          as its files say
safetensors        one tensor at a time
unfinished         what outlives a killed process
pico, demo_model   small models for tests and the demo
hidden_states      what a base makes of texts, for drift
preview            what only the libraries know, before a run
arithmetic         bfloat16 against float32 on this machine
preload            what most stages import
```
"""
