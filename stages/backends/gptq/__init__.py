"""GPTQ through GPTQModel.

```
quantize          the quantization
keep_layers       finished layers outlive a killed process
unfinished        where they are meanwhile
state             nested values and tensors as a file
messages          what the library prints
calibration       its rows
export            a checkpoint that loaders read
effective_config  what is recorded of a model that was made
load              open a checkpoint
groups            do the groups have the size that the settings say?
```
"""
