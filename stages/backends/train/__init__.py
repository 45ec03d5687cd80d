"""QLoRA training.

```
qlora        rows, NF4 base and adapter, trained and written down
trainer      TRL's trainer, stopped on a bad loss
arguments    what TRL's trainer is told
checkpoints  what outlives a killed process
early_stopping  the adapter of the best validation loss
loss         of many labels, without all their logits at once
lora         the adapter, on exactly the layers that were meant
rows         token ids and labels on disk, and their order
pairs        the same of two answers to each prompt
labelled     the same of answers that are called good or bad
answer_trainer  how likely a model finds whole answers
pair_trainer what training on pairs has in common
reference    what a model said of answers before it was trained on them
dpo, orpo    trainers that prefer one answer to the other
kto          a trainer that prefers good answers to bad ones
packing      several rows in one sequence
```
"""
