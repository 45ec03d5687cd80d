"""`tuneline sweep`: try settings of a training, choose on validation rows, judge the best once.

```
execute        from the file to the verdict
sweep          the trials, in the order in which they happen; trial: one of them
config         what a sweep file says; space: the keys that are searched, and their values
target         the gate's metric, on validation rows
study          Optuna, which proposes values and says which training is behind
record         what happened, on disk, so that a killed sweep goes on
lead           how far the best is ahead, by the gate's own arithmetic
preflight      what cannot work or does not fit, before anything starts
outcome        all that a sweep came to; page and table: what people see of it
```
"""
