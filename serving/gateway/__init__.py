"""The gateway: one OpenAI-compatible address for many tenants, before engines that trust whoever asks.

```
server           listens, reads no more than it must, and ends in order
connections      how many there may be, and how long one may take
app              one request: who asks, for what, may they, which artifact, where
request_context  what is known of it on the way
upstream         an engine's answer to it, passed on
embedding        an engine's embeddings, passed on
routes           the few addresses that there are
incoming         the key's header and the body
request_policy   what a tenant may ask for
directory        tenants, keys, channels and rollouts as the registry has them now
admission        how much a tenant may ask for, and how much an engine can take
budgets          tokens of a day, reserved before and settled after
router           engines, and which of them holds what an artifact needs
replica          one engine, with what is loaded in it
relay            bytes from an engine to a client, counted on the way
rollout          which artifact answers: the channel's own, or a candidate
served           whether what is served is still what was evaluated
feedback         what is kept where a tenant agreed, and what it says of the answers
metrics          numbers for Prometheus
```
"""
