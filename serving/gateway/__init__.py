"""The gateway: an OpenAI-compatible door for many tenants, in front of engines that trust whoever asks.

```
server      listens, reads no more than it must, and ends in order
app         one request: who asks, for what, may they, which artifact, where
routes      the few addresses that there are
incoming    the key's header and the body
requests    what a client may ask for
directory   tenants, keys, channels and rollouts as the registry has them now
admission   how much a tenant may ask for, and how much an engine can take
ledger      token budgets, reserved before and settled after
fleet       engines, and which of them holds what an artifact needs
relay       bytes from an engine to a client, counted on the way
rollout     which artifact answers: the channel's own, or a candidate
shadow      the same question to a candidate, whose answer nobody sees
outcomes    what came of it, for the gate
metrics     numbers for Prometheus
```
"""
