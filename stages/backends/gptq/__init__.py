"""GPTQ through GPTQModel.

```
quantize          the quantization
calibration       its rows
export            a checkpoint that loaders read
effective_config  what is recorded of a model that was made
load              open a checkpoint
groups            do the groups have the size that the settings say?
```
"""
