"""What a run writes down as it goes: bounded, whole lines, and never the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.run.journal import EVENTS, Journal, read_events
from flows.run.stage_row import StageRow
from stages.contract import ProgressEvent

DONE = StageRow("train adapter", "train", "a" * 64, "ran", 3.0, 1000)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def at(done: int) -> ProgressEvent:
    return {"done": done, "total": 10_000, "unit": "steps"}


def test_it_holds_each_step_and_how_far_it_came(tmp_path: Path) -> None:
    clock = Clock()
    journal = Journal(tmp_path, clock)
    journal.stage("train", "train adapter")
    journal.progress({**at(1), "loss": 2.5})  # type: ignore[typeddict-unknown-key]
    journal.ended(DONE)
    stage, progress, ended = read_events(tmp_path)
    assert (stage["event"], stage["label"], stage["stage"]) == ("stage", "train adapter", "train")
    assert (progress["done"], progress["loss"], progress["at"]) == (1, 2.5, 1000.0)
    assert (ended["state"], ended["artifact_id"], ended["peak_bytes"]) == ("ran", "a" * 64, 1000)


def test_the_last_progress_is_kept_though_it_came_too_soon(tmp_path: Path) -> None:
    journal = Journal(tmp_path, Clock())
    journal.stage("train", "train adapter")
    for done in (1, 2, 3):
        journal.progress(at(done))
    journal.ended(DONE)
    assert [event["done"] for event in read_events(tmp_path) if event["event"] == "progress"] == [1, 3]


def test_a_stage_of_a_week_leaves_a_small_file(tmp_path: Path) -> None:
    clock = Clock()
    journal = Journal(tmp_path, clock)
    journal.stage("train", "train adapter")
    for step in range(100_000):
        clock.now += 6.0
        journal.progress(at(step))
    journal.ended(DONE)
    assert (tmp_path / EVENTS).stat().st_size < 2_000_000


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gone")
    journal.stage("train", "train adapter")
    journal.progress(at(1))
    journal.ended(DONE)
    assert list(read_events(tmp_path / "gone")) == []


@pytest.mark.parametrize("line", ['{"event": "sta', "[]", '{"event": 3}', "\udcff"])
def test_what_is_not_an_event_is_passed_over(tmp_path: Path, line: str) -> None:
    Journal(tmp_path).stage("merge", "merge")
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(line.encode("utf-8", "surrogateescape"))
    assert [event["label"] for event in read_events(tmp_path)] == ["merge"]
