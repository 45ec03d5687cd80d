"""Token budgets in a gateway: slices of tenants' days are leased, so that requests need not ask for theirs.

```
lease    one tenant's slice of one day, and how large it should be
ledger   all of them, kept in step with the registry by a thread
```
"""
