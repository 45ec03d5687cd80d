"""Alerts caused by their real trouble, on a real Prometheus and Alertmanager.

```
processes   programs that are started, and ended with the test
receiver    takes what Alertmanager and Tuneline's webhooks send, and knows when
system      what is watched: a registry, exporters, pages; and who watches
troubles    what causes each alert, and what ends it
```
"""
