"""File formats, read and written without a model and without torch.

```
model_directory   a model as transformers saves it, each file read once
model_files       which files belong to a model, and their digests
packaged          GGUF files that a package ships
dataset_rows      columns of a prepared dataset
messages          a message of a prepared chat: tool calls, reasoning, weights
gguf              a GGUF file's description
converter_source  llama.cpp's converter of the runtime's commit, which makes GGUF files
```
"""
