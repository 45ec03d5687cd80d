"""Prometheus' own tool accepts the rules, and finds that each alert fires on its trouble and only then."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.metrics.families import FAMILIES
from flows.metrics.rates import read_rates
from tests.seconds import seconds

TREE = Path(__file__).resolve().parents[2]
MONITORING = TREE / "deploy" / "monitoring"
RUNBOOK = TREE / "docs" / "operations.md"
SERIES = Path(__file__).with_name("alert_series.yaml")


def alerts() -> dict[str, dict[str, Any]]:
    """Name → rule, of all alerts."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def promtool(*arguments: str) -> str:
    """What promtool prints; an error without it, as this is what the marker `deploy` promises."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=seconds(60))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_to_do(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "$value" in rule["annotations"]["description"]
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    entry = RUNBOOK.read_text().partition(f"### {name}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
    assert [word for word in ("**Meaning.**", "**Check.**", "**Remedy.**") if word not in entry] == []


def test_the_runbook_has_no_entry_without_an_alert() -> None:
    entries = [line[4:] for line in RUNBOOK.read_text().splitlines() if line.startswith("### Tuneline")]
    assert entries == list(alerts())


def test_the_reference_has_every_metric_of_the_registry() -> None:
    rows = [line for line in RUNBOOK.read_text().splitlines() if line.startswith("| `tuneline_")]
    total = {"gauge": "", "counter": "_total"}
    assert rows == [
        f"| `{one.name}{total[one.kind]}` | {', '.join(one.labels)} | {one.text} |" for one in FAMILIES
    ]


@pytest.mark.deploy
def test_prometheus_accepts_its_files() -> None:
    assert "SUCCESS" in promtool("check", "config", str(MONITORING / "prometheus.yml"))


@pytest.mark.deploy
def test_each_alert_fires_on_its_trouble_only(tmp_path: Path) -> None:
    cases = yaml.safe_load(SERIES.read_text())
    assert list(cases) == list(alerts())
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                    "eval_time": "110m" if alerts()[alert].get("for") == "1h" else "15m",
                    "exp_samples": [{"labels": "{}", "value": int(kind == "trouble")}],
                }
            ],
        }
        for alert, case in cases.items()
        for kind, series in case.items()
    ]
    file = tmp_path / "test.yml"
    document = {"rule_files": [str(MONITORING / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    file.write_text(yaml.safe_dump(document))
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_the_prices_shown_are_ones_that_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "rates.yaml"
    file.write_text(RUNBOOK.read_text().partition("```yaml\n")[2].partition("```")[0])
    assert read_rates(file).engine_hour == {"llama.cpp": 0.4, "vllm": 2.5}
