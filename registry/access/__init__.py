"""Who may look and who may change, and who is told of changes.

```
users      users, roles and tokens, each change in a chained log
sessions   who is signed in to the web interface
webhooks   who is told of what
delivery   telling them: signed, retried, to no private address
addresses  which addresses a webhook may have
access_log the chained log of users and webhooks
```
"""
