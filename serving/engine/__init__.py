"""What every engine with adapters has in common, whichever it is.

```
protocol        one base in memory, an adapter per tenant beside it
process_engine  the part that both engines share: a process that is kept alive
settings        what it is started for
client          how it is asked
capabilities    what each engine can serve
adapter_pool    which adapters are loaded
answer_check    does it say what the artifact said when it was evaluated?
```
"""
