"""Alerts and dashboards use metrics and labels that are given; test_alerts.py asks promtool."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flows.cli import parser
from registry import Registry
from serving.engine.adapter_pool import PoolCounts
from serving.gateway.admission import AdmissionQueue
from serving.gateway.config import ServeConfig
from serving.gateway.directory import Directory
from serving.gateway.metrics import Metrics
from serving.gateway.router import Router
from tests.deploy.dashboards.__main__ import BOARDS, FOLDER
from tests.deploy.dashboards.builder import text_of
from tests.flows.metrics.watched import populate, scraper

TREE = Path(__file__).resolve().parents[2]
MONITORING = TREE / "deploy" / "monitoring"
_SELECTOR = re.compile(r"\b(tuneline[a-z0-9_:]+|up|ALERTS)(?:\{([^}]*)\})?")

OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity"}}


def rules() -> list[dict[str, Any]]:
    """Every rule, recording or alerting."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """Every query of the rules and of the dashboards."""
    queries = (query for board in BOARDS.values() for panel in board.panels for query, _ in panel.queries)
    return list(dict.fromkeys([*(rule["expr"] for rule in rules()), *queries]))


def labels_of(text: str) -> dict[str, set[str]]:
    """Sample name → its labels, of a scrape."""
    families = text_string_to_metric_families(text)
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.fixture(scope="module")
def of_registry(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What `tuneline metrics` gives of a registry with something of everything."""
    with Registry.open(tmp_path_factory.mktemp("monitoring") / "home") as registry:
        populate(registry)
        with scraper(registry) as scrape:
            return labels_of(scrape.text())


@pytest.fixture(scope="module")
def of_gateway() -> dict[str, set[str]]:
    """What a gateway with one engine gives."""
    metrics = Metrics(tenants=1)
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase) and metric._labelnames:
            metric.labels(*metric._labelnames)
    engine = SimpleNamespace(up=True, loaded={}, slots=1, restarts=0)
    replica = SimpleNamespace(
        name="0-0",
        engine=engine,
        queue=AdmissionQueue(1, 1, 1.0),
        pool=SimpleNamespace(counts=PoolCounts()),
        owed=0,
    )
    metrics.watch(
        cast(Router, SimpleNamespace(replicas=[replica])), cast(Directory, SimpleNamespace(age=0.0))
    )
    return labels_of(metrics.text().decode())


@pytest.fixture(scope="module")
def given(of_gateway: dict[str, set[str]], of_registry: dict[str, set[str]]) -> dict[str, set[str]]:
    """Sample name → its labels, of both; with Prometheus' own `up`, and what the rules record of them."""
    assert not of_gateway.keys() & of_registry.keys()
    exported = {**of_gateway, **of_registry, **OF_PROMETHEUS}
    for rule in rules():
        if "record" in rule:
            names = [name for name, _ in _SELECTOR.findall(rule["expr"])]
            exported[rule["record"]] = set[str]().union(*(exported.get(name, set()) for name in names))
    return exported


def refuse_unknown(expression: str, given: dict[str, set[str]]) -> None:
    """An error where the expression asks for a metric or a label that is not given."""
    for name, selectors in _SELECTOR.findall(expression):
        assert name in given, name
        labels = set(re.findall(r"([a-z_]+)\s*=", selectors))
        grouped = {one for by in re.findall(r"by \(([^)]*)\)", expression) for one in re.split(r",\s*", by)}
        assert labels <= given[name]
        assert grouped <= given[name]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_given(expression: str, given: dict[str, set[str]]) -> None:
    assert _SELECTOR.findall(expression)
    refuse_unknown(expression, given)


def test_dashboards_are_as_the_builder_writes_them() -> None:
    written = {path.stem: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert written == {name: text_of(name, board) for name, board in BOARDS.items()}, (
        "python -m tests.deploy.dashboards"
    )


def test_each_variable_of_a_dashboard_is_a_label_and_used(given: dict[str, set[str]]) -> None:
    for name, board in BOARDS.items():
        text = text_of(name, board)
        for label, metric in board.variables:
            assert label in given[metric]
            assert f'=~\\"${label}\\"' in text
        assert set(re.findall(r"\$([a-z]+)", text)) == {label for label, _ in board.variables}


def test_panels_lie_beside_each_other() -> None:
    for name in BOARDS:
        panels = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["panels"]
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
        assert len(set(places)) == len(panels), name
        assert all(panel["title"] and panel["description"] for panel in panels)


def test_prometheus_asks_the_port_that_serve_yaml_names() -> None:
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config = ServeConfig.model_validate(yaml.safe_load((TREE / "deploy" / "serve.yaml").read_text()))
    targets = [
        one
        for job in scraped["scrape_configs"]
        for static in job["static_configs"]
        for one in static["targets"]
    ]
    port = parser().parse_args(["metrics"]).port
    assert targets == [f"{config.operations.host}:{config.operations.port}", f"127.0.0.1:{port}"]
    assert all((MONITORING / name).is_file() for name in scraped["rule_files"])
