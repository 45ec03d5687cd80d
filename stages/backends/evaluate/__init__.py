"""Evaluation: open a model as it is, run tasks, write `results.json`.

```
measure        one evaluation from beginning to end
open_model     16-bit, NF4 with an adapter, GPTQ, GGUF
lm_eval_tasks  tasks through lm-eval, item by item
surroundings   what its libraries do by themselves, held back
heldout        the test split as a task
prompts        held-out chats, as items and by place
choosing       the next token: the likeliest, or one that is drawn
continuations  the continuations of one context
token_lm       what every model under lm-eval has in common
torch_lm       a transformers model
llama_cpp_lm   a GGUF file
merge_choice   two merges, compared
embedding      nearness in the base's hidden states
likelihood/    which of two answers is likelier, whether good ones are, how likely documents are
sampling       several answers to an item, drawn
fidelity/      how near one model is to another
```
"""
