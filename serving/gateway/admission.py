"""How much a tenant may ask for at once and in a minute, and how long an engine would let a request wait."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator

from serving.openai_api.errors import ApiError

_UNLUCKY = 3.0
"""A request is let in if it would have its turn in time even so many standard deviations later than expected.

For n ends that come independently, that is the time of √n of them. 2.33 would do for 99 of 100 if the pace
were known exactly."""


class TooMany(ApiError):
    """429, with the seconds after which it is worth trying again."""

    def __init__(self, message: str, code: str, retry_after: float) -> None:
        super().__init__(message, None, 429, code)
        self.retry_after = max(1, math.ceil(retry_after))


class RateLimiter:
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
    """Answers to each tenant that are under way in this gateway process."""

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, tenant: str, most: int | None, places: int = 1) -> Iterator[None]:
        """So many answers more are under way inside the block. Raises `TooMany`."""
        if most is not None and self._now[tenant] + places > most:
            message = f"{self._now[tenant]} requests are under way already, and {most} may be"
            raise TooMany(message, "concurrency_limit_exceeded", 1)
        self._now[tenant] += places
        try:
            yield
        finally:
            self._now[tenant] -= places
            if not self._now[tenant]:
                del self._now[tenant]


class AdmissionQueue:
    """The answers that an engine was asked for, and how long the next would wait for its turn.

    Little's law: a request has its turn once enough of those before it have ended, and they end as fast as
    they did while the engine was full. So nobody has to know how long an answer takes by itself, or how those
    under way share the engine. About the last `longest` seconds in which it was full count; while it is not,
    nothing is learnt and nothing forgotten.
    """

    def __init__(
        self, parallel: int, queue: int, longest: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`parallel` answers at once, `queue` more that wait, none for more than `longest` seconds.

        A request takes as many places as it asks for answers; its turn is that of the first.
        """
        self._parallel, self._queue, self._longest, self._clock = parallel, queue, longest, clock
        self._seconds, self._ended = 0.0, float(parallel)
        """Seconds in which it was full, and answers that ended in them; older ones weigh less.

        To begin with, as though the first answers were about to end: until one has, nobody knows better.
        """
        self._at = clock()
        self.inside = 0

    def wait(self) -> float:
        """Seconds that a request of now would wait, on average."""
        return self._ahead * self._each()

    @property
    def idle(self) -> bool:
        """Whether somebody could be served at once."""
        return self.inside < self._parallel

    def enter(self, places: int = 1) -> None:
        """Raises `TooMany` where there is no room, or too little hope of a turn in time.

        Where there is never that much room, `ApiError`.
        """
        most = self._parallel + self._queue
        if places > most:
            raise ApiError(f"n: this engine has room for {most} answers; ask for no more", "n")
        wait = (self._ahead + _UNLUCKY * math.sqrt(self._ahead)) * self._each()
        if self.inside + places > most or wait > self._longest:
            message = f"the engine is busy: {self.inside} answers are before it, for {self.wait():.1f} s"
            raise TooMany(message, "overloaded", min(wait - self._longest, self._longest))
        self._pass()
        self.inside += places

    def leave(self, answered: bool, places: int = 1) -> None:
        """`answered`: whether the engine worked for it; else its end says nothing of the next one's."""
        self._pass()
        if answered and not self.idle:
            self._ended += places
        self.inside -= places

    @property
    def _ahead(self) -> int:
        """How many have to end before it is the turn of a request of now."""
        return max(0, self.inside - self._parallel + 1)

    def _each(self) -> float:
        """Seconds from one end to the next."""
        self._pass()
        return self._seconds / max(self._ended, 1.0)

    def _pass(self) -> None:
        """Let time pass, in which an engine that has stalled ends nothing."""
        now = self._clock()
        passed, self._at = now - self._at, now
        if not self.idle:
            weight = math.exp(-passed / self._longest)
            self._seconds = self._seconds * weight + self._longest * (1 - weight)
            self._ended *= weight
