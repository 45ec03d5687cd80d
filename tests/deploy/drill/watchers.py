"""Who watches: a Prometheus with the project's rules, in which time passes faster, and an Alertmanager."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.drill.processes import CHECKOUT, Processes, free_port
from tests.serving.gateway.live_gateway import until

FASTER = 30
"""So many times shorter than in alerts.yml is every `for:` and every range; nothing else differs."""
SCRAPE = 2
"""Seconds between two scrapes, and between two evaluations of the rules."""
MONITORING = CHECKOUT / "deploy" / "monitoring"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATIONS = re.compile(r"(?m)(?<=for: )(\d+)([smhd])$|(?<=\[)(\d+)([smhd])(?=\])")


def faster(rules: str) -> str:
    """The rules with shorter durations."""

    def shorter(match: re.Match[str]) -> str:
        number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
        return f"{int(number) * _UNITS[unit] * 1000 // FASTER}ms"

    return _DURATIONS.sub(shorter, rules)


def watch(
    processes: Processes,
    folder: Path,
    targets: Mapping[str, Sequence[str]],
    hooks: Sequence[Mapping[str, Any]],
) -> str:
    """Start both; returns Prometheus' address once it scrapes all `targets`, which are addresses by job.

    `hooks`: Alertmanager's own settings of webhooks, each of which is sent everything.
    """
    alertmanager, prometheus = (f"127.0.0.1:{free_port()}" for _ in range(2))
    _write(folder / "alertmanager.yml", _alertmanager(hooks))
    (folder / "rules.yml").write_text(faster((MONITORING / "alerts.yml").read_text()))
    _write(folder / "prometheus.yml", _prometheus(targets, alertmanager))
    processes.start(
        "alertmanager",
        "prometheus-alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'am'}",
        f"--web.listen-address={alertmanager}",
        "--cluster.listen-address=",
        first_line=False,
    )
    processes.start(
        "prometheus",
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={prometheus}",
        first_line=False,
    )
    address, everything = f"http://{prometheus}", sum(len(of_job) for of_job in targets.values())
    until(lambda: _up(address) == everything, "Prometheus scrapes everything")
    return address


def _alertmanager(hooks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    times = {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    return {
        "route": {"receiver": "drill", "group_by": ["..."], **times},
        "receivers": [{"name": "drill", "webhook_configs": list(hooks)}],
    }


def _prometheus(targets: Mapping[str, Sequence[str]], alertmanager: str) -> dict[str, Any]:
    settings = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    return {
        "global": dict.fromkeys(settings, f"{SCRAPE}s"),
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
            for job, addresses in targets.items()
        ],
    }


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def _up(prometheus: str) -> int:
    """How many targets it reaches; none while it answers 503, as it starts."""
    try:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": "sum(up)"}).raise_for_status()
    except httpx.HTTPError:
        return 0
    results = answer.json()["data"]["result"]
    return int(results[0]["value"][1]) if results else 0
