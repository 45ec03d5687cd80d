"""What is kept of requests of tenants that agreed, and what these say of the answers.

```
receipts        answers on their way to the registry, never while a request waits for it
body            a client's feedback, read and checked
control_tokens  what may stand in no row to train on
```
"""
