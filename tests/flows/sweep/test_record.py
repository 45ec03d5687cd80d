"""What a sweep leaves on disk: read again as it was, whole lines only, by one process at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.errors import Usage
from flows.sweep.record import LOCK, TRIALS, PastTrial, Record, held
from tests.seconds import seconds

HOLD = """
import sys
from pathlib import Path
from flows.sweep.record import held
with held(Path(sys.argv[1]), 0, print):
    print("held", flush=True)
    sys.stdin.read()
"""


def filled(folder: Path) -> Record:
    record = Record(folder)
    record.begun(1, {"train.epochs": 2.0}, {"train.epochs": 2.0})
    record.validated(1, 1, 2.5)
    record.ended(1, "whole", score=0.5, adapter="a")
    record.begun(2, {"train.epochs": 1.0}, {"train.epochs": 1.0})
    record.validated(2, 1, 3.5)
    record.ended(2, "pruned", "behind")
    record.begun(3, {"train.epochs": 3.0}, {"train.epochs": 3.0})
    return record


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    written = filled(tmp_path).trials
    assert Record(tmp_path).trials == written
    assert written == {
        1: PastTrial({"train.epochs": 2.0}, {1: 2.5}, "whole"),
        2: PastTrial({"train.epochs": 1.0}, {1: 3.5}, "pruned", "behind"),
        3: PastTrial({"train.epochs": 3.0}),
    }
    assert Record(tmp_path / "new").trials == {}


def test_half_a_line_is_taken_away(tmp_path: Path) -> None:
    written = filled(tmp_path).trials
    with (tmp_path / TRIALS).open("ab") as file:
        file.write(b'{"trial": 3, "validated": 1, "lo')
    record = Record(tmp_path)
    assert record.trials == written
    record.validated(3, 1, 1.5)
    assert [json.loads(line) for line in (tmp_path / TRIALS).read_bytes().splitlines()][-1]["loss"] == 1.5


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"trial": 7, "validated": 1, "loss": 1.0}', "{}"])
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str) -> None:
    filled(tmp_path)
    with (tmp_path / TRIALS).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(Usage, match=r"trials\.jsonl line 8 cannot be read; move .* away"):
        Record(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", HOLD, str(tmp_path / "sweep")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        told: list[str] = []
        holder = rf"pid {other.pid} on host \S+ since 20\d\d-[-\d: ]+ UTC"
        busy = pytest.raises(
            Usage, match=f"is still being worked on by {holder} after 0 s .* stop that process"
        )
        with busy, held(tmp_path / "sweep", 0, told.append):
            raise AssertionError("two at once")
        said = (tmp_path / "sweep" / LOCK).read_text()
        assert told == [f"this sweep is being worked on by {said}; waiting for it"]
        other.kill()
        other.wait(seconds(20))
    with held(tmp_path / "sweep", seconds(20), told.append):
        assert (tmp_path / "sweep" / LOCK).read_text().startswith(f"pid {os.getpid()} ")
    assert len(told) == 1, "a lock is let go of however its process ends"
