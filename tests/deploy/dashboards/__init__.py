"""The dashboards for Grafana; `python -m tests.deploy.dashboards` writes deploy/monitoring/dashboards/*.json.

A module for each, and `builder`, which makes Grafana's JSON of it.
"""
