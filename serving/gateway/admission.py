"""How much a tenant may ask for at once and in a minute, and how long an engine would let a request wait."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

from serving.openai_requests import Refused

_SMOOTHING = 0.1


class TooMany(Refused):
    """429, with the seconds after which it is worth trying again."""

    def __init__(self, message: str, code: str, retry_after: float) -> None:
        super().__init__(message, None, 429, code)
        self.retry_after = max(1, math.ceil(retry_after))


class Rates:
    """A bucket for each tenant: full at first, filled again evenly over a minute. For one gateway process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, tenant: str, per_minute: int | None) -> None:
        """Count one request. Raises `TooMany`."""
        if per_minute is None:
            return
        now = self._clock()
        left, at = self._buckets.get(tenant, (float(per_minute), now))
        left = min(float(per_minute), left + (now - at) * per_minute / 60)
        if left < 1:
            self._buckets[tenant] = (left, now)
            wait = (1 - left) * 60 / per_minute
            raise TooMany(f"more than {per_minute} requests a minute", "rate_limit_exceeded", wait)
        self._buckets[tenant] = (left - 1, now)


class Concurrency:
    """Requests of each tenant that are under way in this gateway process."""

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()

    def enter(self, tenant: str, most: int | None) -> None:
        """Raises `TooMany`. Each one that entered has to leave."""
        if most is not None and self._now[tenant] >= most:
            raise TooMany(f"{most} requests are under way already", "concurrency_limit_exceeded", 1)
        self._now[tenant] += 1

    def leave(self, tenant: str) -> None:
        self._now[tenant] -= 1
        if not self._now[tenant]:
            del self._now[tenant]


class Line:
    """The requests that an engine was given, and how long the next would wait for its turn."""

    def __init__(self, parallel: int, queue: int, longest: float) -> None:
        """`parallel` answers at once, `queue` more that wait, none for more than `longest` seconds."""
        self._parallel, self._queue, self._longest = parallel, queue, longest
        self._seconds = 0.0
        self.inside = 0

    def wait(self) -> float:
        """Seconds that a request of now would wait, by how long the latest ones took."""
        return max(0, self.inside - self._parallel + 1) / self._parallel * self._seconds

    @property
    def idle(self) -> bool:
        """Whether somebody could be served at once."""
        return self.inside < self._parallel

    def enter(self) -> None:
        """Raises `TooMany` rather than let the request wait for longer than it may."""
        wait = self.wait()
        if self.inside >= self._parallel + self._queue or wait > self._longest:
            said = f"the engine is busy: {self.inside} requests are before this one, about {wait:.1f} s"
            raise TooMany(said, "overloaded", wait - self._longest)
        self.inside += 1

    def leave(self, seconds: float | None) -> None:
        """`seconds`: how long the answer took from its turn on; None where it was not answered."""
        self.inside -= 1
        if seconds is not None:
            self._seconds += (seconds - self._seconds) * (_SMOOTHING if self._seconds else 1.0)
