"""Whether what is served is what was evaluated: recorded questions, asked again while others ask.

```
evidence  how sure it is that answers are no longer the recorded ones, looked at for ever
watch     asks every engine and adapter at random times, raises the alarm, takes out
```
"""
