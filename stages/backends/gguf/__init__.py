"""GGUF files, made and read with llama.cpp's own tools.

```
convert           a Hugging Face directory to GGUF
converter         llama.cpp's converters in a child process
adapter           a PEFT adapter to GGUF
packaged          a GGUF file that a package ships
token_parity      are texts cut into the same tokens?
```
"""
