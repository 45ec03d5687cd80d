"""What happened in a sweep, on disk: whoever starts it again goes on from there.

A folder of the home holds `trials.jsonl`, a line of JSON for each thing that happened, in order, and
`sweep.json`, what the sweep is of. The results themselves are in the registry: a trial that was measured is
found there again, and one that was under way goes on from its checkpoint. One process at a time works on a
sweep.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flows.errors import Usage
from registry.artifacts import JsonObject
from registry.processes import this_host

TRIALS, ABOUT, LOCK = "trials.jsonl", "sweep.json", "lock"
LOOK_SECONDS = 0.5
Ending = Literal["whole", "pruned", "diverged", "failed"]


@dataclass
class PastTrial:
    """A trial that was begun. `drawn`: its values as they were drawn (`flows.sweep.study`); `losses`: of its
    validations so far, counted from 1; `ending`: None for one that was under way."""

    drawn: Mapping[str, float]
    losses: dict[int, float] = field(default_factory=dict)
    ending: Ending | None = None
    note: str = ""


class Record:
    """The record of the sweep in `folder`, whose lock the caller holds.

    A line that was not written whole, by a process that was killed, is taken away.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / TRIALS
        self.trials: dict[int, PastTrial] = {}
        self._load()

    def begun(self, trial: int, drawn: Mapping[str, float], values: Mapping[str, Any]) -> None:
        """A trial begins with these values."""
        self._write({"trial": trial, "drawn": dict(drawn), "values": dict(values)})

    def validated(self, trial: int, number: int, loss: float) -> None:
        """It has its validation loss of this number, counted from 1."""
        self._write({"trial": trial, "validated": number, "loss": loss})

    def ended(self, trial: int, ending: Ending, note: str = "", **facts: Any) -> None:
        """It came to its end; `facts`: for people who read the file."""
        self._write({"trial": trial, "ended": ending, "note": note, **facts})

    def _take(self, event: JsonObject) -> None:
        if "drawn" in event:
            self.trials[event["trial"]] = PastTrial(event["drawn"])
        trial = self.trials[event["trial"]]
        if "validated" in event:
            trial.losses[event["validated"]] = event["loss"]
        if "ended" in event:
            trial.ending, trial.note = event["ended"], event["note"]

    def _load(self) -> None:
        raw = self._path.read_bytes() if self._path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:
            os.truncate(self._path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                raise Usage(
                    f"{self._path} line {number} cannot be read; move {self._path.parent} away, and the "
                    "sweep begins anew with what the registry holds"
                ) from None

    def _write(self, event: JsonObject) -> None:
        self._take(event)
        with self._path.open("ab") as file:
            file.write(json.dumps(event).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def describe(folder: Path, about: JsonObject) -> None:
    """Write what the sweep is of, for people; nothing reads it."""
    (folder / ABOUT).write_text(json.dumps(about, indent=1, default=str) + "\n", encoding="utf-8")


@contextlib.contextmanager
def held(folder: Path, wait_seconds: float, waiting: Callable[[str], None]) -> Iterator[None]:
    """Within the block no other process works on the sweep in `folder`, which is made.

    Waits for one that does, and tells `waiting` who it is; raises `Usage` where it still does after so long.
    The system lets go of the lock however the process ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until, told = time.monotonic() + wait_seconds, False
        while not _taken(lock):
            holder = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
            if not told:
                waiting(f"this sweep is being worked on by {holder}; waiting for it")
                told = True
            if time.monotonic() >= until:
                raise Usage(
                    f"the sweep in {folder} is still being worked on by {holder} after {wait_seconds:.0f} s "
                    "of waiting (TUNELINE_WAIT_SECONDS sets the limit); wait for it or stop that process, "
                    "then run the same command again"
                )
            time.sleep(LOOK_SECONDS)
        os.ftruncate(lock, 0)
        host, since = this_host().split(" ")[0], f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        os.pwrite(lock, f"pid {os.getpid()} on host {host} since {since}".encode(), 0)
        yield
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
