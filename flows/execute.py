"""Run a recipe from beginning to report, whatever happens on the way."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.arithmetic import settle
from flows.child import StandBy
from flows.errors import FlowError
from flows.gates.channel import refuse_other_policy
from flows.gates.gate import EXIT_CODES
from flows.progress_view import ProgressView
from flows.recipe import Recipe
from flows.report.report import RunReport, StageRow, write_html
from flows.runs import PAGE, REPORT, begin
from flows.settings import Settings, quiet_libraries
from registry import Registry
from registry.errors import RegistryError
from serving.errors import ServingError
from stages.errors import InsufficientResources, StageError
from stages.model_shape import ModelShape, describe_base

EXPECTED = (FlowError, StageError, RegistryError, ServingError)
"""Errors whose message is meant for the user; anything else is a defect and shows its trace."""


@dataclass(frozen=True)
class Result:
    """A finished run: its report, where the HTML lies, how it ended."""

    report: RunReport
    html: Path
    exit_code: int
    error: BaseException | None


def execute(recipe: Recipe, settings: Settings) -> Result:
    """Check resources, run the lifecycle flow, write the report. Never raises for a stage's failure.

    Before anything starts, raises `InsufficientResources`, and `Usage` for a gate that is not the policy of
    the channel it promotes to.
    """
    shape = describe_base(recipe.base.source)
    recipe, arithmetic = settle(recipe, shape, settings)
    refuse_shortfalls(recipe, shape, settings.root)
    quiet_libraries(settings.root)
    from flows.lifecycle import lifecycle
    from flows.prefect_server import prefect_server
    from flows.report.summary import Outcome, report
    from flows.step import Run

    started, clock = datetime.now(UTC), time.monotonic()
    run_id = f"{started:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    folder = settings.root / "runs" / run_id
    registry = Registry.open(
        settings.root, settings.database_url, settings.store_url, signing_key=settings.signing_key
    )
    if recipe.gate is not None and recipe.promote is not None:
        refuse_other_policy(registry, recipe.promote.channel, recipe.gate)
    lock = begin(folder, recipe.name, started)
    with ProgressView() as view, StandBy(folder / "logs" / "stand-by.log") as stand_by:
        run, outcome, error = Run(registry, view, folder, stand_by, arithmetic), Outcome(), None
        try:
            with prefect_server(folder / "logs" / "prefect.log"):
                lifecycle(recipe, run, outcome)
        except (Exception, KeyboardInterrupt) as caught:
            error = caught
            if not any(row.state == "failed" for row in run.rows):
                run.rows.append(StageRow("run", "run", None, "failed", 0.0, None, str(caught)))
    found = report(run, outcome, recipe.name, run_id, started, time.monotonic() - clock)
    html, code = folder / PAGE, _exit_code(error, outcome.verdict)
    write_html(found, html)
    document = {**as_json(found), "exit_code": code}
    (folder / REPORT).write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.close(lock)
    return Result(found, html, code, error)


def refuse_shortfalls(recipe: Recipe, shape: ModelShape, root: Path) -> None:
    """Raise `InsufficientResources` if this machine cannot hold what the recipe needs."""
    from flows.estimate import estimate, machine, shortfalls

    here = machine(root)
    missing = shortfalls(estimate(recipe, shape, here), here)
    if missing:
        raise InsufficientResources("; ".join(missing))


def as_json(report: RunReport) -> dict[str, Any]:
    """The report as JSON values."""
    tree: dict[str, Any] = json.loads(json.dumps(asdict(report), default=str))
    return tree


def _exit_code(error: BaseException | None, verdict: Any) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    if error is not None:
        return int(getattr(error, "exit_code", 4))
    return EXIT_CODES[verdict.decision.verdict] if verdict is not None else 0
