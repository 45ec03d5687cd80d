"""File formats, read and written without a model and without torch.

```
model_files  which files belong to a model, and their digests
gguf         a GGUF file's description
converter_source  llama.cpp's converter of the runtime's commit, which makes GGUF files
```
"""
