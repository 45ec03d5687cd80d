"""How long such work took on this machine before: what the registry recorded of earlier runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """A stage that ran here: what it made, and in how many seconds."""

    manifest: Manifest
    seconds: float
    parameters: int
    """Of the model that it worked on; 0 where that is not known."""


def earlier_runs(registry: Registry, stages: Sequence[str]) -> dict[str, list[EarlierRun]]:
    """The latest executions of each stage on this machine, newest first."""
    here = this_machine()
    runs: dict[str, list[EarlierRun]] = {}
    for stage in stages:
        rows = registry.executions_here(stage, here, limit=20)
        runs[stage] = [
            EarlierRun(artifact.manifest, seconds, _parameters(registry, artifact))
            for artifact, seconds in rows
        ]
    return runs


def _parameters(registry: Registry, artifact: Artifact) -> int:
    """Of the model itself, or of the base that an adapter was trained on."""
    manifest = artifact.manifest
    if "parameters" in manifest.metrics:
        return int(manifest.metrics["parameters"])
    for parent in manifest.parents:
        if parent.relation == "adapter":
            return int(registry.get(parent.id).manifest.metrics.get("parameters", 0))
    return 0


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
