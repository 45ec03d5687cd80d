"""No more than so many failures a minute, of one address and with one token's id."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

FAILURES, SECONDS = 10, 60.0
_MOST_KEYS = 10_000


class Throttle:
    """Counts failures by key, in memory; the keys that failed least recently are forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, *keys: str) -> float:
        """Seconds until another attempt with all of these keys is heard; 0 now."""
        at = self._clock()
        full = [times[0] for key in keys if len(times := self._failures.get(key, deque())) == FAILURES]
        return max([0.0, *(first + SECONDS - at for first in full)])

    def failed(self, *keys: str) -> None:
        """Count a failure."""
        for key in keys:
            self._failures.setdefault(key, deque(maxlen=FAILURES)).append(self._clock())
            self._failures.move_to_end(key)
        while len(self._failures) > _MOST_KEYS:
            self._failures.popitem(last=False)
