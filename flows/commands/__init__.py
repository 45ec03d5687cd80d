"""The commands of `tuneline`, and how they answer.

```
pipeline   from data to endpoint, and what runs by itself
registry   artifacts, their way in and out, backups
gates      verdicts, channels, rollouts
serving    engines, tenants, talking to a channel
access     users and webhooks
api, metrics, ui, doctor
arguments  of all commands; loads nothing else
home       the registry that a command works on
http       applications that are served until a signal
reply      what a command returns, as a table or JSON
```
"""
