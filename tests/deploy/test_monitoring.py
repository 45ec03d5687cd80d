"""Alerts and the dashboard use metrics and labels that the gateway gives; Prometheus is not started."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from serving.engine.adapter_pool import PoolCounts
from serving.gateway.admission import AdmissionQueue
from serving.gateway.config import ServeConfig
from serving.gateway.directory import Directory
from serving.gateway.metrics import Metrics
from serving.gateway.router import Router

TREE = Path(__file__).resolve().parents[2]
MONITORING = TREE / "deploy" / "monitoring"
_SELECTOR = re.compile(r"(tuneline_[a-z_]+)(?:\{([^}]*)\})?")


def expressions() -> list[str]:
    """Every query of the alerts and of the dashboard."""
    rules = [
        rule["expr"]
        for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def given() -> dict[str, set[str]]:
    """Sample name → its labels, of all that a gateway with one engine gives."""
    metrics = Metrics(tenants=1)
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase) and metric._labelnames:
            metric.labels(*metric._labelnames)
    engine = SimpleNamespace(up=True, loaded={}, slots=1, restarts=0)
    replica = SimpleNamespace(
        name="0-0", engine=engine, queue=AdmissionQueue(1, 1, 1.0), pool=SimpleNamespace(counts=PoolCounts())
    )
    metrics.watch(
        cast(Router, SimpleNamespace(replicas=[replica])), cast(Directory, SimpleNamespace(age=0.0))
    )
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_given(expression: str, given: dict[str, set[str]]) -> None:
    asked = _SELECTOR.findall(expression)
    assert asked
    for name, selectors in asked:
        assert name in given, name
        labels = set(re.findall(r"([a-z_]+)\s*=", selectors))
        grouped = {one for by in re.findall(r"by \(([^)]*)\)", expression) for one in re.split(r",\s*", by)}
        assert labels <= given[name]
        assert grouped <= given[name]


def test_prometheus_asks_the_port_that_serve_yaml_names() -> None:
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config = ServeConfig.model_validate(yaml.safe_load((TREE / "deploy" / "serve.yaml").read_text()))
    targets = [
        one
        for job in scraped["scrape_configs"]
        for static in job["static_configs"]
        for one in static["targets"]
    ]
    assert targets == [f"{config.operations.host}:{config.operations.port}"]
    assert all((MONITORING / name).is_file() for name in scraped["rule_files"])
