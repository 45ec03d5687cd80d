"""vLLM, in an environment of its own.

```
launch          how to start its server
engine          it as an `Engine`
middleware      in front of its routes, in its own process
thoughts        likewise: thoughts in answers
tool_parsers    how calls are read, by vLLM's own parsers
adapter_files   a PEFT adapter's files, checked and copied
adapter_probe   does a loaded adapter change what the model says?
cpu_lora_patch  adapters on a CPU, mended in its worker
```
"""
