"""A registry in which there is something of everything that `tuneline metrics` tells, and its scrape."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from flows.execute import as_json
from flows.metrics.exporter import metrics_app
from flows.metrics.rates import MachineRate, Prices
from flows.report.report import RunReport, StageRow
from flows.run.runs import begin
from registry import Artifact, Registry, Waiver
from registry.processes import ProcessId, host_id
from registry.tenancy.budgets import Ask
from registry.tenancy.outcomes import Outcome
from registry.tenancy.tenants import TenantLimits
from tests.flows.lineages import family
from tests.serving.gateway.live_gateway import until

HOST = host_id().partition(" ")[0]
RATES = Prices(
    machines=[MachineRate(host=HOST, hour=3.6, cpus=2, gpus=1)],
    engine_hour={"llama.cpp": 0.5},
    thousand_tokens=0.02,
)
WAIVER = Waiver("the first one", "tests")
RULES = [
    {"rule": "routing/exact_match", "kind": "task", "verdict": "pass", "low": -0.01, "high": 0.04,
     "threshold": -0.02},
    {"rule": "size", "kind": "ceiling", "verdict": "pass", "effect": 80, "threshold": 100},
]  # fmt: skip


@dataclass
class Scraper:
    """Reads the metrics of a registry."""

    client: TestClient

    def text(self) -> str:
        """One scrape, once the store is counted."""
        answers: list[str] = []

        def whole() -> bool:
            answer = self.client.get("/metrics")
            assert answer.status_code == 200
            answers.append(answer.text)
            return "tuneline_store_bytes " in answer.text

        until(whole, "the store is counted")
        return answers[-1]

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Label values, in the order of their names → value, of all samples of that name."""
        families = text_string_to_metric_families(self.text())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {tuple(value for _, value in sorted(s.labels.items())): s.value for s in samples}


@contextmanager
def scraper(registry: Registry, rates: Prices | None = RATES) -> Iterator[Scraper]:
    with TestClient(metrics_app(registry, rates), "http://localhost") as client:
        yield Scraper(client)


def past_run(home: Path, run_id: str, *, failed: bool = False, recipe: str = "demo") -> None:
    """What a run that ended leaves; the folder's name says when."""
    lock = begin(home / "runs" / run_id, recipe, datetime.now(UTC))
    rows = [StageRow("resolve base", "resolve", "a" * 64, "ran", 2.0, 1000)]
    rows += [StageRow("train adapter", "train", None, "failed", 1.0, None, "no room")] if failed else []
    report = RunReport(recipe, run_id, datetime.now(UTC), 83.0, rows)
    (home / "runs" / run_id / "report.json").write_text(json.dumps({**as_json(report), "exit_code": 0}))
    os.close(lock)


def answered(channel: str, artifact: str, minute: datetime, **more: Any) -> Outcome:
    """What a gateway writes down about a minute."""
    given = {"arm": "live", "requests": 10, "failed": 1, "prompt_tokens": 900, "completion_tokens": 100}
    return Outcome(channel=channel, generation=1, artifact_id=artifact, minute=minute, **{**given, **more})


def populate(registry: Registry) -> dict[str, Artifact]:
    """One of everything; returns the family of artifacts."""
    made = family(registry)
    live, other = made["gguf"], made["gptq"]
    decision = registry.gates.record(live.id, made["base"].id, {"tasks": []}, "pass", {"rules": RULES})
    registry.channels.move("support/prod", live.id, 0, decision_id=decision)
    registry.channels.move("support/first", other.id, 0, waiver=WAIVER)
    registry.gates.record(other.id, live.id, {"tasks": []}, "insufficient", {"rules": []})
    registry.rollouts.start("support/prod", other.id, 10.0, 5.0, "tests", "to see")
    registry.endpoints.add(
        artifact_id=live.id, engine="llama.cpp", url="http://127.0.0.1:1", process=ProcessId.of(), log="log",
        channel="support/prod",
    )  # fmt: skip
    registry.tenants.add("acme", "support/prod", "tests", TenantLimits(tokens_per_day=1000))
    gateway = registry.budgets.open_gateway(host_id(), ProcessId.of())
    asks = [Ask(letter * 32, "acme", 300, 1000, f"{datetime.now(UTC):%Y-%m-%d}") for letter in "ab"]
    registry.budgets.reserve(gateway, asks)
    registry.budgets.settle([("a" * 32, 250)])
    registry.outcomes.add([answered("support/prod", live.id, datetime.now(UTC) - timedelta(minutes=5))])
    registry.verify(live.id)
    damage(registry, made["merged"])
    registry.verify(made["merged"].id)
    past_run(registry.home, "20260301-093000-aaaaaa")
    past_run(registry.home, "20260302-093000-bbbbbb", failed=True)
    return made


def damage(registry: Registry, artifact: Artifact) -> bytes:
    """Change a blob of the artifact on the disk; returns what it was."""
    blob = _blob(registry, artifact)
    before = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(before[::-1])
    return before


def repair(registry: Registry, artifact: Artifact, content: bytes) -> None:
    """Put back what `damage` changed."""
    _blob(registry, artifact).write_bytes(content)


def _blob(registry: Registry, artifact: Artifact) -> Path:
    entry = artifact.manifest.files["model.safetensors"]
    return registry.store.folder / entry.sha256[:2] / entry.sha256
