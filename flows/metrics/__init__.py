"""`tuneline metrics`: the numbers of a registry and of its runs, for Prometheus.

```
exporter    the ASGI application: /metrics and /healthz
collector   one scrape: reads everything, yields the families
families    every metric: name, kind, labels, what it means
fleet       channels, gates, scores, endpoints, tenants
pipeline    runs, stages, store, verifications
costs       what it cost, with the user's own rates
rates       the file of rates
store_scan  what the store holds, counted in the background
```
"""
