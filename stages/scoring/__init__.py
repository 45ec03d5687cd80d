"""What an answer is worth, from its text alone: no model, no template, no torch.

```
scorer      a task's metrics as one function of answer and references
text        equal after normalization, contains, numbers, length
documents   JSON: whether it parses, whether a schema accepts it
fields      values in JSON, matched field by field
similarity  ROUGE-L, chrF, BLEU
refusal     whether an answer refuses
tool_calls  calls of tools in an answer
user_function  a Python function of the user's
judge       another model that judges
item        what one answer scores
```
"""
