"""The whole system on one machine, without containers: `make stack`, or `python -m flows.stack up`.

```
programs   what is started: commands, ports, how each says that it is well
databases  the PostgreSQL cluster and the object store, made once
accounts   who signs in to the pages, made once: Alertmanager and an admin
tenant     something to serve, made once: an adapter over a 2-layer base, and a tenant with a key
supervise  starts supervisord, which starts again what ends; asks whether all is well
```
"""
