"""Which adapters are in an engine: loaded on first use, the least recently used out when there is no room."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.engine.protocol import Engine
from serving.errors import Overloaded

TURN_SECONDS = 0.25
"""A busy adapter's time, once another one waits for its slot; a load takes a tenth of that."""


@dataclass
class PoolCounts:
    """Since the pool was made."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0
    load_seconds: float = 0.0
    """That all loads took together."""
    refusals: int = 0
    """Requests turned away because every slot was in use or pinned for too long."""


class AdapterPool:
    """Hands out served names for as long as they are used. Belongs to one event loop."""

    def __init__(self, engine: Engine, patience: float = 10.0) -> None:
        """`patience`: seconds to wait for a slot when all are in use."""
        self.engine = engine
        self.counts = PoolCounts()
        self._patience = patience
        self._users: Counter[str] = Counter()
        self._order: dict[str, None] = {}
        """Digests, the least recently used first."""
        self._pinned: set[str] = set()
        self._leaving: str | None = None
        self._changing = asyncio.Lock()
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def use(self, digest: str, path: Path) -> AsyncIterator[str]:
        """The served name of an adapter, which stays loaded inside the block.

        Raises what `Engine.load_adapter` raises; `Overloaded` when no slot became free in time.
        """
        name = self._take(digest)
        if name is not None:
            self.counts.hits += 1
        else:
            name = await self._bring(digest, path)
        try:
            yield name
        finally:
            self._users[digest] -= 1
            self._freed.set()

    @contextlib.contextmanager
    def hold(self, digest: str) -> Iterator[str | None]:
        """The served name of an adapter that is loaded, which it stays inside the block; else None.

        It is no use of it: it is not counted, and keeps nobody's place.
        """
        name = None if digest == self._leaving else self.engine.loaded.get(digest)
        if name is None:
            yield None
            return
        self._users[digest] += 1
        try:
            yield name
        finally:
            self._users[digest] -= 1
            self._freed.set()

    def pin(self, digest: str) -> None:
        """Never evict it."""
        self._pinned.add(digest)

    def unpin(self, digest: str) -> None:
        """It may be evicted again."""
        self._pinned.discard(digest)
        self._freed.set()

    async def drop(self, digest: str) -> None:
        """Unload it once nobody uses it any more; whoever asks for it meanwhile waits, and loads it again."""
        async with self._changing:
            self._leaving = digest
            try:
                while self._users[digest]:
                    self._freed.clear()
                    await self._freed.wait()
                self._order.pop(digest, None)
                await _whole(self.engine.unload_adapter(digest))
            finally:
                self._leaving = None

    def _take(self, digest: str) -> str | None:
        name = self.engine.loaded.get(digest)
        if digest == self._leaving:
            return None
        if name is not None:
            self._users[digest] += 1
            self._order.pop(digest, None)
            self._order[digest] = None
        return name

    async def _bring(self, digest: str, path: Path) -> str:
        deadline = asyncio.get_running_loop().time() + self._patience
        await self._in_time(deadline, self._changing.acquire())
        try:  # one load at a time: the second to ask finds it loaded
            if (name := self._take(digest)) is not None:
                self.counts.hits += 1
                return name
            await self._in_time(deadline, self._make_room())
            began = time.monotonic()
            self._order[digest] = None  # it may be put out again, also if whoever wanted it is gone by then
            await _whole(self.engine.load_adapter(digest, path))
            self.counts.load_seconds += time.monotonic() - began
            self.counts.loads += 1
            name = self._take(digest)
        finally:
            self._changing.release()
        if name is None:
            raise Overloaded("the engine has just restarted; try again")
        return name

    async def _in_time(self, deadline: float, work: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await work
        except TimeoutError:
            self.counts.refusals += 1
            raise Overloaded(
                f"all {self.engine.slots} adapter slots are in use or pinned, and none became free within "
                f"{self._patience:g} s"
            ) from None

    async def _make_room(self) -> None:
        try:
            while len(self.engine.loaded) >= self.engine.slots:
                victim = await self._idle()
                self.counts.evictions += 1
                await _whole(self.engine.unload_adapter(victim))
        finally:
            self._leaving = None

    async def _idle(self) -> str:
        """An adapter that nobody uses; while all are busy, the one loaded longest ago takes no more requests.

        Else busy tenants would hold their slots for as long as their requests overlap.
        """
        turn = asyncio.get_running_loop().time() + TURN_SECONDS
        while (victim := self._victim()) is None:
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(turn if self._leaving is None else None):
                    await self._freed.wait()
                    continue
            self._leaving = next((digest for digest in self.engine.loaded if digest not in self._pinned), "")
        return victim

    def _victim(self) -> str | None:
        for digest in self._order:
            if digest in self.engine.loaded and digest not in self._pinned and not self._users[digest]:
                return digest
        return None


async def _whole(change: Coroutine[Any, Any, object]) -> None:
    """Let a change of the engine come to its end, also for one who is told to go away meanwhile.

    A load that nobody waited for would take a slot that nobody knows of; an unload, a name that the next load
    finds on its way out.
    """
    task, told_to_go = asyncio.ensure_future(change), None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            told_to_go = error
        except Exception:  # the task has it
            break
    if told_to_go is not None:
        task.exception()
        raise told_to_go
    task.result()
