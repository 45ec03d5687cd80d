"""A training's curves on disk: what TensorBoard reads, while it runs and when it is over."""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flows.tracking.curves import Curves, tags
from flows.tracking.event_file import EventFile, crc32c
from stages.config.train import TrainConfig
from tests.flows.tracking.reading import curves, events

HISTORY = [
    {"step": 1, "loss": 3.0, "learning_rate": 1e-4, "tokens": 10},
    {"step": 2, "loss": 2.5, "learning_rate": 2e-4, "tokens": 20},
    {"step": 2, "validation_loss": 2.75},
    {"step": 3, "loss": 2.0, "learning_rate": 1e-4, "tokens": 30},
    {"step": 4, "loss": 1.5, "learning_rate": 0.0, "tokens": 40},
    {"step": 4, "validation_loss": 1.75},
]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksum_is_crc_32c(data: bytes, expected: int) -> None:
    """The examples of RFC 3720, B.4, and the usual check value."""
    assert crc32c(data) == expected


def test_a_file_in_full(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "new", 1000.5)
    file.scalars(300, {"train/loss": 0.5, "train/é": -2.0}, 1001.25)
    file.scalars(2**40, {"train/loss": 1e300, "b": -1e300, "c": math.nan}, 1002.0)
    file.close()
    assert "tfevents" in file.path.name
    first, second, third = events(file.path)
    assert (first.at, first.version, first.scalars) == (1000.5, "brain.Event:2", {})
    assert (second.at, second.step, second.scalars) == (1001.25, 300, {"train/loss": 0.5, "train/é": -2.0})
    assert (third.step, third.scalars["train/loss"], third.scalars["b"]) == (2**40, math.inf, -math.inf)
    assert math.isnan(third.scalars["c"])


def event(step: int, loss: float, validation: float | None = None) -> Any:
    told = {"done": step, "total": 4, "unit": "steps", "loss": loss, "tokens_per_second": 10.0 * step}
    return told if validation is None else {**told, "validation_loss": validation}


def test_a_training_is_seen_while_it_runs_and_whole_when_it_is_over(tmp_path: Path) -> None:
    clock = count(1000).__next__
    drawn = Curves(tmp_path, TrainConfig(evaluations=1), clock)
    assert list(tmp_path.iterdir()) == [], "nothing was heard yet"
    drawn.heard({"done": 3, "total": 9, "unit": "pairs read by the reference"})
    for told in (event(1, 3.0), event(2, 2.5), event(3, 2.0, 2.75), event(4, 1.5, 2.75)):
        drawn.heard(told)
    (live,) = tmp_path.iterdir()
    found = curves(live)
    assert found["train/loss"] == {1: 3.0, 2: 2.5, 3: 2.0, 4: 1.5}
    assert found["train/tokens_per_second"] == {1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0}
    assert found["validation/loss"] == {2: 2.75}, "at the step after which it was taken, once"
    drawn.whole(HISTORY)
    (whole,) = tmp_path.iterdir()
    found = curves(whole)
    assert found["validation/loss"] == {2: 2.75, 4: 1.75}
    assert found["train/loss"] == {1: 3.0, 2: 2.5, 3: 2.0, 4: 1.5}
    assert list(found["train/learning_rate"]) == [1, 2, 3, 4]
    assert found["train/tokens_per_second"] == {1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0}
    times = {read.step: read.at for read in events(whole) if "train/loss" in read.scalars}
    assert times == {1: 1000, 2: 1001, 3: 1002, 4: 1003}, "when each step was"


def test_a_training_that_was_made_before_has_its_curves_too(tmp_path: Path) -> None:
    Curves(tmp_path, TrainConfig()).whole(HISTORY)
    (file,) = tmp_path.iterdir()
    assert curves(file)["validation/loss"] == {2: 2.75, 4: 1.75}


def test_a_disk_that_takes_nothing_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    drawn = Curves(tmp_path / "file" / "below", TrainConfig())
    drawn.heard(event(1, 3.0))
    drawn.whole(HISTORY)
    drawn.close()


def test_what_is_drawn() -> None:
    told = {"step": 3, "loss": 1, "preferred": 0.5, "validation_preferred": 0.25, "words": "x", "flag": True}
    assert tags(told) == {"train/loss": 1.0, "train/preferred": 0.5, "validation/preferred": 0.25}
