"""llama.cpp behind OpenAI's protocol, in a process of its own.

```
launch           how to start it
engine           it as an `Engine`
server           the process: `python -m serving.llama_cpp.server`
api              what clients may ask
admin_api        what whoever runs it may ask
chat_template    the file's own template: prompts, and calls as it writes them
completions      answers on their way to a client
scheduler        many answers at once over one model
sequences        an answer in the making, its keys and values
states           texts whose mean state is asked for
structured       JSON that fits a schema, calls of functions, thoughts
detokenizer      whole characters from tokens
loaded_adapters  base and adapters by name
adapter_memory   adapters at little more than their files' size
step_times       how long its steps take: `python -m serving.llama_cpp.step_times`
blank_adapter    an adapter to time them with
model            one GGUF model with several sequences
sampling         the next token, and how likely it was
bindings         llama.cpp's C interface
amx_workaround   keeps it off tiles that a compiler breaks
```
"""
