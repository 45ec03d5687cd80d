"""The families of what makes artifacts: runs, stages, the store and verifications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client.core import Metric

from flows.metrics.families import Labels, made
from flows.metrics.rates import Prices
from flows.metrics.store_scan import StoreScan
from flows.run.runs import PastRun, read, run_folders
from registry.monitoring.totals import StageTotal
from registry.verifications import Verification

MOST_RECIPES, MOST_DAMAGED = 100, 20
STATES = ("running", "done", "failed", "interrupted", "killed")
"""As `tuneline runs` says them."""


class Runs:
    """The runs of a home. One that has its report is over, and is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._over: dict[str, PastRun] = {}

    def latest(self) -> list[PastRun]:
        """All runs, newest first."""
        runs = []
        for folder in run_folders(self._root):
            run = self._over.get(folder.name) or read(folder)
            if run is not None:
                runs.append(run)
                if run.report is not None:
                    self._over[folder.name] = run
        return runs


def runs_of(runs: list[PastRun]) -> Iterator[Metric]:
    """The families of runs; for each recipe, its latest."""
    states = Counter[str](run.state for run in runs)
    yield made("tuneline_runs", (((state,), states.get(state, 0)) for state in STATES))
    latest, finished = dict[str, PastRun](), dict[str, PastRun]()
    for run in runs:
        latest.setdefault(run.recipe, run)
        if run.report is not None:
            finished.setdefault(run.recipe, run)
    recipes = dict(list(latest.items())[:MOST_RECIPES])
    yield made("tuneline_recipe_run_state", (
        ((recipe, state), run.state == state) for recipe, run in recipes.items() for state in STATES
    ))  # fmt: skip
    began = (((recipe,), run.started.timestamp()) for recipe, run in recipes.items())
    yield made("tuneline_recipe_run_timestamp_seconds", began)
    reports = {recipe: finished[recipe] for recipe in recipes if recipe in finished}
    took = (((recipe,), run.seconds or 0.0) for recipe, run in reports.items())
    yield made("tuneline_recipe_run_seconds", took)
    yield made("tuneline_recipe_stage_seconds", _steps(reports).items())


def _steps(reports: Mapping[str, PastRun]) -> dict[Labels, float]:
    return {
        (recipe, row["stage"], row["label"]): row["seconds"]
        for recipe, run in reports.items()
        for row in (run.report or {}).get("stages", ())
    }


def stages(totals: Mapping[tuple[str, str], StageTotal], rates: Prices) -> Iterator[Metric]:
    """The families of executions, by stage and host."""
    yield made("tuneline_stage_executions", ((key, total.executions) for key, total in totals.items()))
    yield made("tuneline_stage_seconds", ((key, total.seconds) for key, total in totals.items()))
    for device in ("cpu", "gpu"):
        held = {machine.host: getattr(machine, f"{device}s") for machine in rates.machines}
        yield made(f"tuneline_stage_{device}_seconds", (
            ((stage, host), total.seconds * held[host])
            for (stage, host), total in totals.items()
            if held.get(host)
        ))  # fmt: skip
    yield made("tuneline_stage_peak_bytes", ((key, total.peak_bytes) for key, total in totals.items()))


def store(scan: StoreScan) -> Iterator[Metric]:
    """The families of the store; none of its count before the first is done."""
    if (count := scan.latest()) is not None:
        yield made("tuneline_store_blobs", [((), count.blobs)])
        yield made("tuneline_store_bytes", [((), count.bytes)])
        yield made("tuneline_store_counted_timestamp_seconds", [((), count.at)])
    if (disk := scan.disk()) is not None:
        free, size = disk
        yield made("tuneline_store_disk_free_bytes", [((), free)])
        yield made("tuneline_store_disk_bytes", [((), size)])


def verifications(records: list[Verification], damaged: Mapping[str, int]) -> Iterator[Metric]:
    """The families of verifications; `damaged`: artifact → problems, of those whose content is there."""
    sound = sum(not record.problems for record in records)
    outcomes = [(("sound",), sound), (("damaged",), len(damaged))]
    yield made("tuneline_verify_artifacts", outcomes)
    if records:
        latest = max(record.at for record in records)
        yield made("tuneline_verify_timestamp_seconds", [((), latest)])
    named = sorted(damaged.items())[:MOST_DAMAGED]
    yield made("tuneline_verify_problems", (((artifact[:12],), number) for artifact, number in named))
