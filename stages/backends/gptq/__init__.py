"""GPTQ through GPTQModel.

```
quantize     the quantization
calibration  its rows
export       a checkpoint that loaders read
load         open a checkpoint
groups       do the groups have the size that the settings say?
```
"""
