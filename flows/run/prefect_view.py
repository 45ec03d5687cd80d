"""What a run shows in Prefect, told to a process beside it: a run never waits for Prefect, nor fails with it.

That process (`flows.run.prefect_reporter`) outlives the run a little: so one that is killed with -9 is shown
as crashed, and not as running.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.formatting import VERDICTS, duration, short, size
from flows.run.readers import remark
from flows.run.stage_row import StageRow
from registry import processes
from stages.contract import ProgressEvent

END_SECONDS = 120.0
"""How long a process that ends waits for Prefect to be told; what is told later still arrives."""
SILENT_SECONDS = 2.0

_TYPES = {"pass": "COMPLETED", "done": "COMPLETED", "interrupted": "CANCELLED"}
_STATES = {
    "ran": ("COMPLETED", "Completed"),
    "reused": ("COMPLETED", "Reused"),
    "skipped": ("COMPLETED", "Skipped"),
    "pruned": ("COMPLETED", "Pruned"),
    "failed": ("FAILED", "Failed"),
    "interrupted": ("CANCELLED", "Interrupted"),
}


@dataclass(frozen=True)
class Ending:
    """How a run ended. `tone`: a gate's verdict, or `failed`, `interrupted` or `done`."""

    tone: str
    words: str
    notes: tuple[str, ...]
    markdown: str


@dataclass(frozen=True)
class ParentFlow:
    """The Prefect flow run that this run is a part of, and the API where it is known."""

    flow_run_id: str
    api_url: str


class PrefectView:
    """Tells Prefect about one run. Whatever goes wrong there is in `log` and nowhere else.

    `every`: seconds between two tellings of a stage's progress.
    """

    def __init__(self, log: Path, parent: ParentFlow | None = None, every: float = 5.0) -> None:
        self._parent, self._log, self._every, self._told = parent, log, every, 0.0
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._reporter = subprocess.Popen(
                [sys.executable, "-m", "flows.run.prefect_reporter"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=Path(__file__).resolve().parents[2],
                env=_environment(parent),
            )
        atexit.register(self.wait)

    def run(self, recipe: str, run_id: str) -> None:
        """The run begins, in this process."""
        self._tell(
            "run",
            name=recipe,
            parameters={
                "recipe": recipe,
                "run": run_id,
                "host": processes.host_id(),
                **processes.ProcessId.of().record,
            },
            parent=self._parent.flow_run_id if self._parent else None,
        )

    def stage(self, stage: str, label: str) -> None:
        """A stage begins."""
        self._told = time.monotonic()
        self._tell("stage", stage=stage, label=label)

    def progress(self, event: ProgressEvent) -> None:
        """The running stage has come so far; told now and then only."""
        total = event.get("total")
        if total and time.monotonic() - self._told >= self._every:
            self._told = time.monotonic()
            self._tell("progress", percent=min(100.0, 100.0 * event["done"] / total))

    def ended(self, row: StageRow) -> None:
        """A stage came to its end."""
        type_, name = _STATES[row.state]
        if row.stage == "gate" and row.state == "ran":
            type_, name = "COMPLETED" if row.note == "pass" else "FAILED", VERDICTS.get(row.note, row.note)
        facts = [row.state, duration(row.seconds)]
        if row.peak_bytes is not None:
            facts.append(f"peak memory {size(row.peak_bytes)}")
        if row.artifact_id is not None:
            facts.append(f"artifact {short(row.artifact_id)}")
        message = "; ".join(filter(None, [", ".join(facts), row.note]))
        state = {"type": type_, "name": name, "message": message}
        self._tell("ended", state=state, whole=row.state in ("ran", "reused"))

    def close(self, ending: Ending) -> None:
        """The run came to its end; Prefect hears of it until `wait` returns."""
        self._end(ending)
        self._hang_up()

    def _end(self, ending: Ending) -> None:
        names = {"failed": "Failed", "interrupted": "Interrupted", "done": "Completed"}
        state = {
            "type": _TYPES.get(ending.tone, "FAILED"),
            "name": names.get(ending.tone, ending.words),
            "message": "; ".join([ending.words, *filter(None, ending.notes)]),
        }
        self._tell("end", state=state, markdown=ending.markdown)

    def wait(self, seconds: float = END_SECONDS) -> None:
        """Wait until Prefect was told all, at most so long."""
        self._hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            try:
                self._reporter.wait(SILENT_SECONDS)
            except subprocess.TimeoutExpired:
                remark("Telling Prefect how it ended; Ctrl-C leaves that to go on by itself")
            if self._reporter.wait(seconds) != 0:
                remark(f"Prefect does not show this run whole; {self._log} says why")
        atexit.unregister(self.wait)

    def _tell(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}, default=str)
        assert self._reporter.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone: why stands in its log
            self._reporter.stdin.write(line.encode() + b"\n")
            self._reporter.stdin.flush()

    def _hang_up(self) -> None:
        assert self._reporter.stdin is not None
        with contextlib.suppress(OSError):
            self._reporter.stdin.close()


def _environment(parent: ParentFlow | None) -> dict[str, str]:
    return {**os.environ, **({"PREFECT_API_URL": parent.api_url} if parent else {})}
