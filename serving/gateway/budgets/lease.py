"""A slice of a tenant's tokens of a day that one gateway may let requests use without asking the registry.

It is as large as what the tenant asked for in the last seconds, and no larger than a share of what is left of
the limit; it is worth having only where it holds several requests. One thread at a time may call it.
"""

from __future__ import annotations

import math
import uuid

from registry.tenancy.budgets import Grant, Renewal

PACE_SECONDS = 5.0
"""A request counts for the size of the lease in full at first, and for 1/e of that after so long."""
IDLE_SECONDS = 2.0
"""A lease that nobody has drawn on for so long is given back."""
WORTH_REQUESTS = 2
"""A lease for fewer requests like the latest would save no transaction."""


class Lease:
    """Of `tenant`, for the day `day` (UTC, YYYY-MM-DD); `now` is in seconds everywhere, by one clock."""

    def __init__(self, tenant: str, day: str) -> None:
        self.tenant, self.day = tenant, day
        self.free = 0
        """Tokens for requests to come."""
        self.renewal: Renewal | None = None
        """What the registry is being asked, and asked again until it has answered."""
        self._id = ""
        self._held = self._used = 0
        self._limit = 0
        self._share = math.inf
        self._asked, self._latest, self._drawn = 0.0, 0, -math.inf

    def draw(self, tokens: int, limit: int, now: float) -> bool:
        """What `take` says of a new request, whose tokens count for the pace either way."""
        if limit < self._limit:
            self._share = 0  # until the registry says what is left of the new limit
        self._limit = limit
        self._asked = self._asked * math.exp(-self._silent(now) / PACE_SECONDS) + tokens
        self._latest, self._drawn = tokens, now
        return self.take(tokens)

    def take(self, tokens: int) -> bool:
        """Whether so many tokens were free; they are held for a request then."""
        if tokens > self.free:
            return False
        self.free -= tokens
        self._held += tokens
        return True

    def settle(self, drawn: int, used: int) -> None:
        """A request that had drawn so many tokens has ended."""
        self._held -= drawn
        self._used += used
        self.free += drawn - used

    def is_low(self, now: float) -> bool:
        """Whether it should be topped up before the next look at it, and is not being topped up."""
        return self.renewal is None and self.free < self._size(now, self._share) / 2

    def is_over(self, now: float) -> bool:
        """Whether nothing would be lost with it."""
        return not self._id and self.renewal is None and self._silent(now) >= IDLE_SECONDS

    def renew(self, now: float, give_back: bool = False) -> Renewal | None:
        """What to ask the registry now, None where nothing has changed.

        While there is no answer it is the same renewal, and what that keeps can be drawn on.
        `give_back`: keep nothing for requests to come.
        """
        if self.renewal is None:
            size = 0 if give_back else self._size(now)
            kept = max(0, min(self.free, 0 if give_back else self._size(now, self._share)))
            if self._used == 0 and kept == self.free and size <= kept:
                return None
            self.renewal = Renewal(
                reservation=uuid.uuid4().hex,
                tenant=self.tenant,
                day=self.day,
                limit=self._limit,
                replaces=self._id,
                used=self._used,
                held=self._held,
                free=kept,
                size=size,
                least=WORTH_REQUESTS * self._latest,
            )
            self.free, self._used = kept, 0
        return self.renewal

    def renewed(self, grant: Grant) -> None:
        """The registry's answer to the renewal."""
        assert self.renewal is not None
        self.free += grant.tokens - self.renewal.held - self.renewal.free
        self._id = self.renewal.reservation if grant.tokens else ""
        self._share, self.renewal = grant.share, None

    def _silent(self, now: float) -> float:
        """Seconds since the latest request."""
        return max(0.0, now - self._drawn)

    def _size(self, now: float, share: float = math.inf) -> int:
        """Tokens that it should have for requests to come."""
        silent = self._silent(now)
        size = min(self._asked * math.exp(-silent / PACE_SECONDS), share)
        return 0 if silent >= IDLE_SECONDS or size < WORTH_REQUESTS * self._latest else int(size)
