"""What is watched: a registry with a run of 91 days ago, two exporters, pages; and who watches.

Everything is what users start. The pico recipe ran by a clock that was set back for it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.drill.processes import CHECKOUT, TUNELINE, Processes, Started, free_port, require_programs
from tests.deploy.drill.receiver import Receiver, receiving
from tests.kept import kept
from tests.serving.gateway.live_gateway import until

FASTER = 30
"""So many times shorter than in alerts.yml is every `for:` and every range; nothing else differs."""
SCRAPE = 2
"""Seconds between two scrapes, and between two evaluations of the rules."""
MONITORING = CHECKOUT / "deploy" / "monitoring"
WAIVED = ("--waive", "--reason", "drill", "--who", "drill")
LONG_AGO = ("faketime", "-f", "-91d")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATIONS = re.compile(r"(?m)(?<=for: )(\d+)([smhd])$|(?<=\[)(\d+)([smhd])(?=\])")


def faster(rules: str) -> str:
    """The rules with shorter durations."""

    def shorter(match: re.Match[str]) -> str:
        number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
        return f"{int(number) * _UNITS[unit] * 1000 // FASTER}ms"

    return _DURATIONS.sub(shorter, rules)


@dataclass
class System:
    """Addresses and ids of what runs."""

    folder: Path
    processes: Processes
    receiver: Receiver
    live: str = ""
    """The adapter that the recipe promoted, made 91 days ago."""
    merged: str = ""
    base: str = ""
    small: Started | None = None
    """The exporter of a home on a small disk of its own."""
    prometheus: str = ""
    began: float = 0.0
    """When Prometheus was started, in seconds since the epoch."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def small_disk(self) -> Path:
        """The small disk, as it is seen from here."""
        assert self.small is not None
        return Path(f"/proc/{self.small.process.pid}/root{self.folder / 'small'}")

    def tuneline(self, *words: str, before: tuple[str, ...] = (), codes: tuple[int, ...] = (0,)) -> Any:
        return self.processes.tuneline(*words, before=before, codes=codes)

    def start_small(self) -> None:
        """Start the exporter of the small disk, on the port that it had."""
        port = "0" if self.small is None else self.small.target.rpartition(":")[2]
        mount = 'mount -t tmpfs -o size=24m tmpfs "$TUNELINE_HOME" && exec "$@"'
        own = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh")
        more = {"TUNELINE_HOME": str(self.folder / "small"), "TUNELINE_DATABASE_URL": ""}
        self.small = self.processes.start(
            "small", *own, *TUNELINE, "metrics", "--json", "--port", port, **more
        )

    def firing(self) -> list[dict[str, str]]:
        """Labels of the alerts that fire now, as Prometheus says."""
        alerts = httpx.get(f"{self.prometheus}/api/v1/alerts").json()["data"]["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]


@contextmanager
def watched(folder: Path) -> Iterator[System]:
    """Everything runs and is scraped."""
    require_programs()
    home = kept(CHECKOUT / ".cache" / "drill-home", _run_long_ago)
    shutil.copytree(home, folder / "home", symlinks=True, ignore=shutil.ignore_patterns("views"))
    with ExitStack() as stack:
        processes = Processes(folder, {"TUNELINE_HOME": str(folder / "home"), "TUNELINE_DATABASE_URL": ""})
        stack.callback(processes.close)
        system = System(folder, processes, stack.enter_context(receiving()))
        report = json.loads(next((folder / "home" / "runs").glob("*/report.json")).read_text())
        system.live = report["channel"]["artifact_id"]
        made = {row["label"]: row["artifact_id"] for row in report["stages"]}
        system.merged, system.base = made["merge"], made["quantize base Q8_0"]
        _watch(system)
        yield system


def _run_long_ago(home: Path) -> None:
    processes = Processes(home, {"TUNELINE_HOME": str(home), "TUNELINE_DATABASE_URL": ""})
    processes.tuneline("run", "pico-tenant", before=LONG_AGO)


def _watch(system: System) -> None:
    """Exporters, pages that take alerts, Prometheus with the rules, and Alertmanager."""
    folder, start = system.folder, system.processes.start
    exporter = start("metrics", *TUNELINE, "metrics", "--json", "--port", "0")
    (folder / "small").mkdir()
    system.start_small()
    pages = start("ui", *TUNELINE, "ui", "--json", "--port", "0")
    added = system.tuneline("users", "add", "alerts", "--role", "operator")
    (folder / "token").write_text(added["token"])
    hook = ("webhooks", "add", f"{system.receiver.url}/tuneline", "--events", "alert", "--allow-private")
    system.receiver.secret = system.tuneline(*hook)["secret"]
    alertmanager = f"127.0.0.1:{free_port()}"
    pages_url = f"http://{pages.target}/alerts"
    _write(folder / "alertmanager.yml", _alertmanager(system.receiver, pages_url, folder / "token"))
    (folder / "rules.yml").write_text(faster((MONITORING / "alerts.yml").read_text()))
    assert system.small is not None
    targets = {"tuneline-registry": [exporter.target, system.small.target]}
    _write(folder / "prometheus.yml", _prometheus(targets, alertmanager))
    start(
        "alertmanager",
        "prometheus-alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'am'}",
        f"--web.listen-address={alertmanager}",
        "--cluster.listen-address=",
        first_line=False,
    )
    here = f"127.0.0.1:{free_port()}"
    system.prometheus, system.began = f"http://{here}", time.time()
    start(
        "prometheus",
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={here}",
        first_line=False,
    )
    until(lambda: _all_up(system), "Prometheus scrapes everything")


def _alertmanager(receiver: Receiver, pages: str, token: Path) -> dict[str, Any]:
    bearer = {"authorization": {"credentials_file": str(token)}}
    return {
        "route": {
            "receiver": "drill",
            "group_by": ["..."],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "1h",
        },
        "receivers": [
            {
                "name": "drill",
                "webhook_configs": [
                    {"url": f"{receiver.url}/alertmanager"},
                    {"url": pages, "http_config": bearer},
                ],
            }
        ],
    }


def _prometheus(targets: dict[str, list[str]], alertmanager: str) -> dict[str, Any]:
    settings = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    return {
        "global": dict.fromkeys(settings, f"{SCRAPE}s"),
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": addresses}]}
            for job, addresses in targets.items()
        ],
    }


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def _all_up(system: System) -> bool:
    try:
        answer = httpx.get(f"{system.prometheus}/api/v1/query", params={"query": "sum(up)"})
    except httpx.HTTPError:
        return False
    return [row["value"][1] for row in answer.json()["data"]["result"]] == ["2"]
