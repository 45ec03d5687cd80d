"""Compiling for tenants: each has a share of time for it, and nobody waits behind another's schemas.

A schema at the bounds takes 0.2 s of a core to compile, which the engine's own threads would have used. So a
tenant whose schemas and tools took `SECONDS` within `WINDOW` has to wait, its requests are compiled one after
the other, and the threads that compile run when no other has work. What was refused is known and costs
nothing again. What was compiled is used for one answer only: llguidance's copies share their lexer, whose
bounds the answers before would use up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from serving.llama_cpp.structured.constraints import Constraint, SchemaRefused

SECONDS, WINDOW = 1.0, 10.0
"""Of a processor, and in how many seconds; a usual schema takes 1 ms."""
THREADS = 4
"""That compile: on a busy machine a large schema takes a minute, and others' usual ones pass it."""
MOST_REFUSED = 64
"""Of one tenant, that are remembered."""


class CompileTimeSpent(Exception):
    """A tenant's schemas took as long as they may. `retry_after`: seconds until there is time again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"this key's schemas and tools took {SECONDS:g} s to compile within {WINDOW:g} s, the most that "
            f"the engine spends on one: send fewer, or smaller ones; there is time again in {retry_after} s"
        )
        self.retry_after = retry_after


@dataclass(eq=False)
class _Tenant:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    spent: deque[tuple[float, float]] = field(default_factory=deque)
    """When, and how many seconds."""
    refused: OrderedDict[bytes, str] = field(default_factory=OrderedDict)
    """Digest of what was refused → why."""


class Compiler:
    """Compiles in threads of its own. Its coroutines belong to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._threads = ThreadPoolExecutor(THREADS, "compile", _give_way)

    async def compiled(
        self, tenant: str, source: str, work: Callable[[], Constraint], count: int = 1
    ) -> list[Constraint]:
        """What `work` makes of `source`, `count` times, each for one answer.

        Raises `SchemaRefused`, `CompileTimeSpent`, or whatever else `work` raises.
        """
        known = self._known(tenant)
        digest = hashlib.sha256(source.encode()).digest()
        async with known.turn:
            if digest in known.refused:
                raise SchemaRefused(known.refused[digest])
            made: list[Constraint] = []
            while len(made) < count:
                self._require_time(known)
                try:
                    made.append(await self._timed(known, work))
                except SchemaRefused as error:
                    known.refused[digest] = str(error)
                    while len(known.refused) > MOST_REFUSED:
                        known.refused.popitem(last=False)
                    raise
            return made

    def _known(self, tenant: str) -> _Tenant:
        """Also forgets who has compiled nothing of late, the longest first."""
        known = self._tenants.setdefault(tenant, _Tenant())
        self._tenants.move_to_end(tenant)
        for name, other in list(self._tenants.items())[:2]:
            self._expire(other)
            if other is not known and not other.spent and not other.turn.locked():
                del self._tenants[name]
        return known

    def _expire(self, tenant: _Tenant) -> None:
        while tenant.spent and tenant.spent[0][0] <= self._clock() - WINDOW:
            tenant.spent.popleft()

    def _require_time(self, tenant: _Tenant) -> None:
        self._expire(tenant)
        spent = list(tenant.spent)
        left = sum(seconds for _, seconds in spent)
        if left < SECONDS:
            return
        for when, seconds in spent:
            left -= seconds
            if left < SECONDS:
                raise CompileTimeSpent(max(1, math.ceil(when + WINDOW - self._clock())))

    async def _timed(self, tenant: _Tenant, work: Callable[[], Constraint]) -> Constraint:
        """The result of `work`. The processor's time counts: on a busy machine a tenant has no less of it."""

        def timed() -> Constraint:
            began = time.thread_time()
            try:
                return work()
            finally:
                tenant.spent.append((self._clock(), time.thread_time() - began))

        return await asyncio.get_running_loop().run_in_executor(self._threads, timed)


def _give_way() -> None:
    """Let the engine's own threads go first: of those that wait for each other, one held up holds up all.

    Being nicer is not enough: Linux lets a thread that runs finish its turn of some milliseconds, unless it
    is idle by policy. Nothing is said where there is no such policy, or a sandbox forbids it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
