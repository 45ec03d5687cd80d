"""Timings say whether other work had the cores, and end in their time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from serving import timing
from serving.timing import LEAST_RUNS, TimeBox, usual
from tests.seconds import seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """One that goes on only where the test does; seconds, and seconds waited for a core."""
    now = [0.0, 0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)
    monkeypatch.setattr(timing, "_waited", lambda: now[1])
    return now


def runs(clock: list[float], each: Iterator[tuple[float, float]]) -> timing.Timing:
    def work() -> None:
        took, waited = next(each)
        clock[0] += took
        clock[1] += waited

    return usual(work, longest=100)


def test_the_first_run_and_disturbed_ones_do_not_count(clock: list[float]) -> None:
    found = runs(clock, iter([(9, 0), (1, 0), (5, 4), (2, 0), (3, 0)]))
    assert found == timing.Timing(2, False)


def test_where_all_runs_are_disturbed_it_says_so(clock: list[float]) -> None:
    found = runs(clock, iter([(50, 0), *[(5.0, 1.0)] * 11]))
    assert found == timing.Timing(4, True), "without the time that was waited"


def test_a_run_that_takes_longer_than_its_share_is_the_only_one(clock: list[float]) -> None:
    box = TimeBox(10, pieces=2)
    count = 0

    def work() -> None:
        nonlocal count
        count += 1
        clock[0] += 7

    assert (box.time(work).seconds, count) == (7, 1)
    assert box.left == 3
    clock[0] += 4
    assert (box.time(work).seconds, count) == (7, 2), "also where nothing is left"


def test_what_one_piece_leaves_the_next_may_have(clock: list[float]) -> None:
    box = TimeBox(10, pieces=2)

    def work() -> None:
        clock[0] += 0.1

    assert box.time(work).seconds == pytest.approx(0.1)
    assert box.left == pytest.approx(10 - (1 + LEAST_RUNS) * 0.1)


def test_this_machine_is_timed() -> None:
    found = usual(lambda: sum(range(10_000)), longest=seconds(5))
    assert 0 < found.seconds < seconds(1)
