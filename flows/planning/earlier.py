"""What such work took on this machine before: what the registry recorded of earlier runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from flows.planning.rates import ComputeRates
from flows.run.arithmetic import this_machine
from registry import Artifact, Registry
from registry.artifacts import Manifest
from stages.work import Work

KEPT = 5
"""Of the latest runs, so that an estimate follows a machine that changes."""
ALIKE = 4.0
"""How many times more or less work a run may have had and still say something of this one."""


@dataclass(frozen=True)
class EarlierRun:
    """A stage that ran here: what it made and of what, when, in how many seconds, and its peak of resident
    memory, None where that was not recorded."""

    made: Artifact
    made_of: Sequence[tuple[str, Manifest]]
    """Relation and manifest of each parent."""
    started: datetime
    seconds: float
    peak_bytes: int | None
    parameters: int
    """Of the model that it worked on; 0 where that is not known."""

    @property
    def manifest(self) -> Manifest:
        """Of what it made."""
        return self.made.manifest

    def parents(self, relation: str) -> list[Manifest]:
        """Of those that its result has this relation to."""
        return [manifest for related, manifest in self.made_of if related == relation]


def earlier_runs(registry: Registry, stages: Sequence[str]) -> dict[str, list[EarlierRun]]:
    """The latest executions of each stage on this machine, newest first."""
    here = this_machine()
    seen: dict[str, Manifest] = {}

    def manifest_of(artifact_id: str) -> Manifest:
        if artifact_id not in seen:
            seen[artifact_id] = registry.get(artifact_id).manifest
        return seen[artifact_id]

    runs: dict[str, list[EarlierRun]] = {}
    for stage in stages:
        runs[stage] = []
        for made, execution in registry.executions_here(stage, here, limit=20):
            parents = [(parent.relation, manifest_of(parent.id)) for parent in made.manifest.parents]
            parameters = _parameters(made.manifest, parents)
            runs[stage].append(
                EarlierRun(
                    made, parents, execution.started, execution.seconds, execution.peak_bytes, parameters
                )
            )
    return runs


def _parameters(manifest: Manifest, parents: Sequence[tuple[str, Manifest]]) -> int:
    """Of the model itself, or of the base that an adapter was trained on."""
    if "parameters" in manifest.metrics:
        return int(manifest.metrics["parameters"])
    bases = [parent for relation, parent in parents if relation == "adapter"]
    return int(bases[0].metrics.get("parameters", 0)) if bases else 0


def correction(
    runs: Sequence[EarlierRun],
    expected: float,
    rates: ComputeRates,
    dtype: str,
    describe: Callable[[EarlierRun], Work | None],
) -> tuple[float, int] | None:
    """How many times longer than by `rates` the latest comparable runs took, and how many those are.

    `expected`: seconds by `rates` of the work that is asked about; `describe` says what an earlier run had to
    do, None where it cannot be compared.
    """
    ratios = []
    for run in runs:
        work = describe(run)
        if work is None:
            continue
        by_rates = rates.seconds(work, dtype)
        if expected / ALIKE <= by_rates <= expected * ALIKE:
            ratios.append(run.seconds / by_rates)
    kept = ratios[:KEPT]
    return (statistics.median(kept), len(kept)) if kept else None
