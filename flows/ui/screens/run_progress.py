"""How far a run is: its stages as the report has them, or as its journal tells them so far."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import psutil

from flows.run.journal import read_events
from flows.run.progress_view import Rate, figures
from flows.run.runs import PastRun
from registry.artifacts import JsonObject
from registry.processes import ProcessId


@dataclass
class StageProgress:
    """A stage of a run. `share` (0..1) and `left` (seconds) are None where nobody can tell."""

    label: str
    stage: str
    state: str
    seconds: float
    artifact_id: str | None = None
    peak_bytes: int | None = None
    note: str = ""
    counted: str = ""
    figures: tuple[str, ...] = ()
    share: float | None = None
    left: float | None = None


def stages_of(run: PastRun) -> list[StageProgress]:
    """Every stage that began, in order."""
    if run.report:
        return [
            StageProgress(
                row["label"],
                row["stage"],
                row["state"],
                row["seconds"],
                row.get("artifact_id"),
                row.get("peak_bytes"),
                row.get("note", ""),
            )
            for row in run.report["stages"]
        ]
    stages: list[StageProgress] = []
    began, rate = 0.0, Rate()
    for event in read_events(run.folder):
        if event["event"] == "stage":
            began, rate = event["at"], Rate()
            stages.append(StageProgress(event["label"], event["stage"], "running", 0.0))
        elif stages and event["event"] == "progress":
            _progress(stages[-1], event, rate)
        elif stages and event["event"] == "ended":
            for key in ("state", "seconds", "artifact_id", "peak_bytes", "note"):
                setattr(stages[-1], key, event.get(key))
    if stages and stages[-1].state == "running":
        stages[-1].seconds = time.time() - began
        if run.state != "running":
            stages[-1].state = "killed"
    return stages


def _progress(stage: StageProgress, event: JsonObject, rate: Rate) -> None:
    done, total, unit = event["done"], event.get("total"), event.get("unit", "")
    stage.counted = f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"
    stage.share = done / total if total else None
    stage.left = rate.eta(event["at"], done, total)
    named = {key: value for key, value in event.items() if key not in ("event", "at", "label")}
    stage.figures = tuple(figures(named))  # type: ignore[arg-type]


def memory_of(process: ProcessId | None) -> int | None:
    """Bytes resident in the run's process and those below it; None where it is not of this host."""
    child = process.find() if process else None
    if child is None:
        return None
    total = 0
    with contextlib.suppress(psutil.Error):
        for member in (child, *child.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total
