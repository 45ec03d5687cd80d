"""What is watched: a home with a run of 91 days ago and an endpoint, a gateway, a small disk; and how.

Everything is what users start. The pico recipe ran by a clock that was set back for it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from registry.processes import host_id
from tests.deploy.drill.gateway import Serving
from tests.deploy.drill.processes import CHECKOUT, TUNELINE, Processes, Started, require_programs
from tests.deploy.drill.receiver import Receiver, receiving
from tests.deploy.drill.recorded import Recorded
from tests.deploy.drill.watchers import watch
from tests.kept import kept
from tests.registry.servers import postgresql

LONG_AGO = ("faketime", "-f", "-91d")
RECIPE = "pico-smoke"
CHANNEL = "pico/smoke"
"""Where the recipe promotes to; an endpoint serves it."""


@dataclass
class System:
    """Addresses and ids of what runs."""

    folder: Path
    processes: Processes
    receiver: Receiver
    serving: Serving
    recorded: Recorded
    live: str = ""
    """The GGUF that the recipe promoted, made 91 days ago."""
    merged: str = ""
    base: str = ""
    """The GGUF of the model without any adapter."""
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

    def deploy(self) -> None:
        """Run the recipe today: all is found but an endpoint, which is started."""
        self.tuneline("run", RECIPE, "--set", "deploy.ttl_minutes=60")

    def endpoint(self) -> dict[str, Any]:
        """The one that serves the channel."""
        (endpoint,) = (row for row in self.tuneline("endpoints", "ls") if row["channel"] == CHANNEL)
        return dict(endpoint)


@contextmanager
def watched(folder: Path) -> Iterator[System]:
    """Everything runs and is scraped."""
    require_programs()
    home = kept(CHECKOUT / ".cache" / f"drill-{RECIPE}", _run_long_ago)
    shutil.copytree(home, folder / "home", symlinks=True, ignore=shutil.ignore_patterns("views"))
    for name in ("serving", "small"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        processes = Processes(folder, {"TUNELINE_HOME": str(folder / "home"), "TUNELINE_DATABASE_URL": ""})
        stack.callback(processes.close)
        database = stack.enter_context(postgresql())
        there = {"TUNELINE_HOME": str(folder / "serving" / "home"), "TUNELINE_DATABASE_URL": database.fresh()}
        beside = Processes(folder / "serving", there)
        stack.callback(beside.close)
        serving = Serving(folder / "serving", database, beside)
        recorded = Recorded(folder, processes)
        system = System(folder, processes, stack.enter_context(receiving()), serving, recorded)
        made = _made_long_ago(folder / "home")
        system.live, system.merged = made["quantize gguf-q8_0"], made["merge"]
        system.base = made["quantize base Q8_0"]
        stack.callback(_stop_endpoint, system)
        system.deploy()
        _watch(system)
        yield system


def _run_long_ago(home: Path) -> None:
    processes = Processes(home, {"TUNELINE_HOME": str(home), "TUNELINE_DATABASE_URL": ""})
    processes.tuneline("run", RECIPE, "--set", "deploy=null", before=LONG_AGO)
    processes.tuneline("run", "pico-tenant", before=LONG_AGO)  # makes the base's GGUF


def _made_long_ago(home: Path) -> dict[str, str]:
    """Step → the artifact that it made."""
    reports = [json.loads(file.read_text()) for file in (home / "runs").glob("*/report.json")]
    return {row["label"]: row["artifact_id"] for report in reports for row in report["stages"]}


def _watch(system: System) -> None:
    """Exporters of all three homes, pages that take alerts, and who watches."""
    machine = {"host": host_id().partition(" ")[0], "hour": 1.2, "cpus": 2, "gpus": 1}
    prices = {"machines": [machine], "engine_hour": {"llama.cpp": 0.5}, "thousand_tokens": 0.02}
    rates = system.folder / "rates.yaml"
    rates.write_text(yaml.safe_dump(prices))
    exporter = (*TUNELINE, "metrics", "--json", "--port", "0", "--rates", str(rates))
    exporters = [processes.start("metrics", *exporter) for processes in _homes(system)]
    system.start_small()
    assert system.small is not None
    pages = system.processes.start("ui", *TUNELINE, "ui", "--json", "--port", "0")
    added = system.tuneline("users", "add", "alerts", "--role", "operator")
    token = system.folder / "token"
    token.write_text(added["token"])
    hook = ("webhooks", "add", f"{system.receiver.url}/tuneline", "--events", "alert", "--allow-private")
    system.receiver.secret = system.tuneline(*hook)["secret"]
    hooks: list[dict[str, Any]] = [
        {"url": f"{system.receiver.url}/alertmanager"},
        {
            "url": f"http://{pages.target}/alerts",
            "http_config": {"authorization": {"credentials_file": str(token)}},
        },
    ]
    targets = {
        "tuneline": [system.serving.operations, system.recorded.operations],
        "tuneline-registry": [started.target for started in (*exporters, system.small)],
    }
    system.began = time.time()
    system.prometheus = watch(system.processes, system.folder, targets, hooks)


def _homes(system: System) -> tuple[Processes, Processes]:
    return system.processes, system.serving.processes


def _stop_endpoint(system: System) -> None:
    for endpoint in system.tuneline("endpoints", "ls"):
        system.tuneline("endpoints", "stop", endpoint["id"], codes=(0, 3))
