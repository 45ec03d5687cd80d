"""How long a piece of work takes here, and whether others had a core meanwhile."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LEAST_RUNS, ENOUGH_SECONDS = 3, 0.1
"""A piece is repeated so often and for so long, longer only where others disturb it."""
DISTURBED = 0.05
"""Of a run's time, for which its threads waited for a core."""
LEAST_SECONDS = 0.02
"""Shorter work is repeated within a run: waking a thread alone takes a share of it."""
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Timing:
    """`disturbed`: others had the core of a thread that was ready, in each run."""

    seconds: float
    disturbed: bool


@dataclass
class TimeBox:
    """Seconds for so many `pieces` together: what one leaves, the others may have."""

    seconds: float
    pieces: int

    def __post_init__(self) -> None:
        self._ends = time.perf_counter() + self.seconds

    @property
    def left(self) -> float:
        """Seconds; below zero once it is over."""
        return self._ends - time.perf_counter()

    def time(self, work: Callable[[], object]) -> Timing:
        """The usual time of a run, in this piece's share; of at least one run."""
        share = self.left / max(1, self.pieces)
        self.pieces -= 1
        return usual(work, share)


def usual(work: Callable[[], object], longest: float) -> Timing:
    """Of a run after the first, in which kernels are made and memory is got; within `longest` seconds or
    two runs, and of the first alone where that took longer.

    Runs in which others had the core of a thread that was ready do not count, unless all are such.
    """
    ends = time.perf_counter() + longest
    alone: list[float] = []
    disturbed: list[float] = []
    first = _timed(work)
    if time.perf_counter() > ends:
        return first
    times = max(1, round(LEAST_SECONDS / max(first.seconds, 1e-5)))
    while len(alone) < LEAST_RUNS or times * sum(alone) < ENOUGH_SECONDS:
        run = _timed(work, times)
        (disturbed if run.disturbed else alone).append(run.seconds)
        if time.perf_counter() > ends:
            break
    return Timing(statistics.median(alone or disturbed), not alone)


def _timed(work: Callable[[], object], times: int = 1) -> Timing:
    """Of one of so many repetitions; where they were disturbed without the time that threads waited."""
    waited, own, began = _waited(), time.thread_time(), time.perf_counter()
    for _ in range(times):
        work()
    seconds, waited = time.perf_counter() - began, _waited() - waited
    if waited <= DISTURBED * seconds:
        return Timing(seconds / times, False)
    return Timing(max(time.thread_time() - own, seconds - waited) / times, True)


def _waited() -> float:
    """Seconds that threads of this process waited for a core; 0 where the system does not say."""
    total = 0
    for file in _TASKS.glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(file.read_text().split()[1])
    return total / 1e9
