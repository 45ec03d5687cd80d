"""What there is to watch in a registry, read at one moment and cheaply: for metrics and alerts.

```
state     everything, in one reading transaction
channels  what each channel points to: lineage, gate, scores, traffic
totals    executions, artifacts, gate decisions, tenants
```
"""
