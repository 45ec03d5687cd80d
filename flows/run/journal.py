"""What happens in a run, as lines of JSON in its folder, for those who look on from another process.

`events.jsonl` holds an object per line: `{"event": "stage" | "progress" | "ended", "at": seconds since the
epoch, "label": …}`, and what the event says. The report, at the end, is what counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.run.stage_row import StageRow
from registry.artifacts import JsonObject
from stages.contract import ProgressEvent

EVENTS = "events.jsonl"
SPACING = 0.5
"""Seconds between two events of a stage's progress, at first."""
GROWTH = 0.001
"""Of a stage's time so far: what long stages space their events by, so that no file grows without end."""


class Journal:
    """Appends to `events.jsonl` in a run's folder. A disk that is full ends the journal, not the run."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = folder / EVENTS, clock
        self._label, self._began, self._written = "", 0.0, 0.0
        self._last: ProgressEvent | None = None

    def stage(self, stage: str, label: str) -> None:
        """A step begins, or is looked up."""
        self._label, self._began, self._written, self._last = label, self._clock(), 0.0, None
        self._write("stage", stage=stage)

    def progress(self, event: ProgressEvent) -> None:
        """The running step has come so far; now and then only."""
        now = self._clock()
        if now - self._written < max(SPACING, GROWTH * (now - self._began)):
            self._last = event
            return
        self._written, self._last = now, None
        self._write("progress", **event)

    def ended(self, row: StageRow) -> None:
        """A step came to its end."""
        if self._last is not None:
            self._write("progress", **self._last)
            self._last = None
        figures = {"state": row.state, "seconds": row.seconds, "peak_bytes": row.peak_bytes}
        self._write("ended", stage=row.stage, artifact_id=row.artifact_id, note=row.note, **figures)

    def _write(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "at": self._clock(), "label": self._label, **values}, default=str)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            return


def read_events(folder: Path) -> Iterator[JsonObject]:
    """The events of a run, oldest first; none of a run without a journal."""
    try:
        file = (folder / EVENTS).open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
