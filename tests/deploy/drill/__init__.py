"""Alerts caused by their real trouble, on a real Prometheus and Alertmanager; and dashboards asked there.

```
processes   programs that are started, and ended with the test
receiver    takes what Alertmanager and Tuneline's webhooks send, and knows when
gateway     what serves, and those who ask it
recorded    what is asked its recorded questions
watchers    Prometheus with the rules, and Alertmanager
system      all that is watched, and who watches it
troubles    what causes each alert, and what ends it
```
"""
