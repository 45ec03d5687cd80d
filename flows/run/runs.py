"""What runs leave in the home: each its folder, with a record from its beginning and a report from its end.

A run under way holds a lock on its record. The system lets go of it however the process ends, so that a run
that was killed is never taken for one that goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from flows.errors import Usage
from registry.artifacts import JsonObject
from registry.processes import ProcessId, host_id

RECORD, REPORT, PAGE, RECIPE = "run.json", "report.json", "report.html", "recipe.json"
State = Literal["running", "done", "failed", "interrupted", "killed"]


@dataclass(frozen=True)
class PastRun:
    """A run's id, what it was of and how it went; `report`: what its `report.json` holds, if it got there.

    `stage` is what it was at, `verdict` its gate's, `seconds` how long it took.
    """

    id: str
    recipe: str
    state: State
    started: datetime
    seconds: float | None
    stage: str | None
    verdict: str | None
    folder: Path
    report: JsonObject | None

    @property
    def gate(self) -> str:
        """The verdict; that it was not asked for, of a run that came to its end without one."""
        return self.verdict or ("not asked" if self.state == "done" else "–")

    @property
    def page(self) -> Path | None:
        """The HTML report."""
        return self.folder / PAGE if (self.folder / PAGE).is_file() else None


def begin(folder: Path, recipe: str, started: datetime) -> int:
    """Write the record of a run that begins now; the lock on it, a descriptor to close at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "recipe": recipe,
        "started": started.isoformat(),
        "host": host_id(),
        **ProcessId.of().record,
    }
    draft = folder / f".{RECORD}"
    lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, json.dumps(record).encode())
    draft.rename(folder / RECORD)  # nobody meets a record that is not whole or not locked
    return lock


def process_of(run: PastRun) -> ProcessId | None:
    """The process of a run under way on this host; None of another, and of one that ended."""
    record = _json(run.folder / RECORD) or {}
    if run.state != "running" or record.get("host") != host_id() or "pid_started" not in record:
        return None
    return ProcessId(int(record["pid"]), float(record["pid_started"]))


def past_runs(root: Path, most: int | None = None) -> list[PastRun]:
    """The runs of a home, newest first; the newest `most` of them."""
    return [run for folder in run_folders(root)[:most] if (run := read(folder)) is not None]


def run_folders(root: Path) -> list[Path]:
    """The folders of a home's runs, newest first."""
    with contextlib.suppress(FileNotFoundError), os.scandir(root / "runs") as entries:
        return sorted((Path(entry.path) for entry in entries if entry.is_dir()), reverse=True)
    return []


def find(root: Path, beginning: str | None) -> PastRun:
    """The run whose id begins so; without a beginning the newest. Raises `Usage`."""
    runs = past_runs(root)
    if not runs:
        raise Usage(f"no run was recorded in {root}; `tuneline run RECIPE` makes one")
    if beginning is None:
        return runs[0]
    matching = [run for run in runs if run.id.startswith(beginning)]
    if len(matching) != 1:
        which = "several runs begin" if matching else "no run begins"
        raise Usage(f"{which} with {beginning!r} in {root}; `tuneline runs` lists them")
    return matching[0]


def read(folder: Path) -> PastRun | None:
    """The run in a folder; None where it is no run's."""
    report = _json(folder / REPORT)
    record = report or _json(folder / RECORD)
    if record is None:
        # Earlier versions wrote no record; of a run without a report they left its logs.
        if not (folder / "logs").is_dir():
            return None
        record = {"recipe": "–", "started": datetime.fromtimestamp(folder.stat().st_mtime).astimezone()}
    started, state = datetime.fromisoformat(str(record["started"])), _state(folder, report)
    if report is None:
        stage = _last_stage(folder)
        return PastRun(folder.name, record["recipe"], state, started, None, stage, None, folder, None)
    failed = [row["label"] for row in report["stages"] if row["state"] in ("failed", "interrupted")]
    verdict = report["gate"]["verdict"] if report.get("gate") else None
    stage = failed[0] if failed else None
    return PastRun(
        folder.name, report["recipe"], state, started, report["seconds"], stage, verdict, folder, report
    )


def _state(folder: Path, report: JsonObject | None) -> State:
    if report is None:
        return "running" if _locked(folder / RECORD) else "killed"
    states = {row["state"] for row in report["stages"]}
    if report.get("exit_code") == 130 or "interrupted" in states:
        return "interrupted"
    return "failed" if "failed" in states else "done"


def _json(path: Path) -> JsonObject | None:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        tree = json.loads(path.read_text("utf-8"))
        return tree if isinstance(tree, dict) and "started" in tree and "recipe" in tree else None
    return None


def _locked(path: Path) -> bool:
    """Whether some process holds the lock on a record."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _last_stage(folder: Path) -> str | None:
    logs: Iterator[Path] = (folder / "logs").glob("*.log")
    times = {}
    for log in logs:
        if log.stem not in {"prefect", "stand-by"}:
            with contextlib.suppress(OSError):
                times[log.stem] = log.stat().st_mtime
    return max(times, key=lambda stem: times[stem]).replace("-", " ") if times else None
