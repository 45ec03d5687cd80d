"""The arguments of all commands, which load nothing else: `--help` and completion take no time.

```
gate        gate, promote, channels
registry    artifacts, endpoints, rollback, api
tenants     tenants, rollouts, outcomes
overview    runs, recipes, doctor, completion
planning    plan
sweep       sweep
completion  what a shell needs to complete them
```
"""
