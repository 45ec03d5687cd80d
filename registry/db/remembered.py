"""What readings of the database said, for as long as nobody has committed since."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar, cast

from registry.db.engine import Database

T = TypeVar("T")

OLDEST = 1.0
"""Seconds after which a reading is made anew in any case: some depend on the clock."""
_MOST = 1000


class _Reading(NamedTuple):
    commits: int
    at: float
    answer: object


class Remembered:
    """Keeps answers of functions that read; for several threads.

    On PostgreSQL, which does not tell whether somebody committed, every question is a reading.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = threading.Lock()
        self._readings: dict[Hashable, _Reading] = {}

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """The answer of `read`, which `key` stands for. Raises what `read` raises, and keeps no error."""
        commits = self._database.commits()
        if commits is None:
            return read()
        now, kept = time.monotonic(), self._readings.get(key)
        if kept is not None and kept.commits == commits and now - kept.at < OLDEST:
            return cast(T, kept.answer)
        answer = read()
        with self._turn:
            if len(self._readings) >= _MOST:
                self._readings.clear()
            self._readings[key] = _Reading(commits, now, answer)
        return answer
