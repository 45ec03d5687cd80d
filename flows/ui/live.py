"""Tell open pages that something changed: one server-sent event per change, from one look per second for all.

A page that hears `changed` asks for its own address again; without the stream it asks every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio.to_thread
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from registry import Registry
from registry.db.access_tables import webhook_deliveries
from registry.db.remembered import Remembered
from registry.db.serving_tables import outcomes, serving_version
from registry.db.tables import artifacts, endpoints, gate_decisions

INTERVAL = 1.0
"""Seconds between two looks."""
KEEP_ALIVE = 4.0
"""Seconds after which a silent stream sends a comment: proxies keep it open, and the guard looks again."""


class Changes:
    """What the registry looked like last, and who waits for it to change. An async context manager."""

    def __init__(self, look: Look, more: Callable[[], object] = tuple) -> None:
        """`more`: what else the pages show, of this process."""
        self._fingerprint, self._more = look.fingerprint, more
        self._changed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self.last: object = None
        """What was seen when last looked, once somebody waits."""
        self.listeners = 0
        self.over = False
        """Whether the server ends, which waits for the end of what it streams."""

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._watch is not None
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        self._changed.set()

    def end(self) -> None:
        """End the streams."""
        self.over = True
        self._changed.set()

    async def wait(self, seconds: float) -> bool:
        """Whether something changed within that time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
            return True
        return False

    async def look(self) -> None:
        """Look once; whoever waits hears it where it looks different from the last time."""
        with contextlib.suppress(Exception):  # the pages themselves say what is wrong with a database
            state = await anyio.to_thread.run_sync(self._fingerprint), self._more()
            before, self.last = self.last, state
            if before is not None and state != before:
                event, self._changed = self._changed, asyncio.Event()
                event.set()

    async def _look(self) -> None:
        while True:
            if self.listeners:
                await self.look()
            await asyncio.sleep(INTERVAL)


class Look:
    """What the registry looks like, in short; for several threads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._remembered = Remembered(registry.database)

    def acts(self) -> object:
        """Differs once an artifact, decision, move, tenant or engine is new, or an engine stopped."""
        return self._read()[: len(_ACTS)]

    def fingerprint(self) -> str:
        """Differs also once an outcome or alert is new, a run goes on, or a webhook is told."""
        home = self._registry.home
        parts = [*self._read(), *_runs(home / "runs"), _modified(home / "alerts.json")]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _read(self) -> Sequence[object]:
        return self._remembered.get("look", self._query)

    def _query(self) -> Sequence[object]:
        with self._registry.database.read() as connection:
            return connection.execute(_LOOK).one()


_WAITING = webhook_deliveries.c.state == "waiting"
_ACTS = (
    *(
        select(func.max(table.c.sequence)).scalar_subquery()
        for table in (artifacts, gate_decisions, endpoints)
    ),
    select(serving_version.c.version).scalar_subquery(),
    select(func.max(endpoints.c.stopped)).scalar_subquery(),
)
_LOOK = select(
    *_ACTS,
    *(select(func.max(table.c.sequence)).scalar_subquery() for table in (outcomes, webhook_deliveries)),
    select(func.count()).where(_WAITING).scalar_subquery(),
    select(func.sum(webhook_deliveries.c.attempts)).where(_WAITING).scalar_subquery(),
)


def _runs(folder: Path) -> list[object]:
    """The newest runs and when each last wrote."""
    with contextlib.suppress(OSError):
        newest = sorted((entry.name for entry in folder.iterdir()), reverse=True)[:8]
        return [(name, _modified(folder / name)) for name in newest]
    return []


def _modified(folder: Path) -> list[int]:
    times = []
    for path in (folder, folder / "events.jsonl", folder / "report.json"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime_ns)
    return times


async def _events(request: Request) -> StreamingResponse:
    changes: Changes = request.app.state.changes
    return StreamingResponse(
        _stream(request, changes), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _stream(request: Request, changes: Changes) -> AsyncIterator[str]:
    changes.listeners += 1
    try:
        await changes.look()
        # What changed between the page and this stream is not lost: the page asks again once.
        yield "retry: 3000\nevent: changed\ndata: {}\n\n"
        while not await request.is_disconnected():
            changed = await changes.wait(KEEP_ALIVE)
            if changes.over:
                return
            yield "event: changed\ndata: {}\n\n" if changed else ": still here\n\n"
    finally:
        changes.listeners -= 1


routes = [Route("/events", _events)]
