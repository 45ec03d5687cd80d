"""What serving many tenants needs to know.

```
tenants     who may ask, with which keys, of which channel
tenant_log  the chained log of their changes
budgets     tokens, reserved before and settled after an answer
rollouts    which candidate a channel tries out, on how much traffic
consents    what of its requests a tenant agreed to have kept
redaction   what is taken out of a text before that
outcomes    how answers fared, as counts, for the gate
endpoints   which engine serves which artifact, where
snapshot    all that a gateway knows, read at one moment
```
"""
