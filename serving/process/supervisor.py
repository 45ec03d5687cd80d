"""Keep one process running: start it, notice that it died or hangs, start it again, and later each time.

The process ends with this one, also when this one is killed with -9: its reaper holds a pipe to here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from registry.processes import ProcessId
from serving.errors import EngineFailed, ServingError
from serving.process import process
from serving.process.process import Launch

log = logging.getLogger("tuneline.serving")

GRACE_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
CALM_SECONDS = 60.0
"""After so long without trouble, the next restart is immediate again."""
MISSED = 3
"""Health checks in a row without an answer, after which a process that lives is ended all the same."""


class Supervisor:
    """`prepare` says how to start (a new socket each time), `ready` returns once it is."""

    def __init__(
        self,
        prepare: Callable[[], contextlib.AbstractContextManager[Launch]],
        ready: Callable[[], Awaitable[None]],
        healthy: Callable[[], Awaitable[object]],
        log_file: Path,
        ready_timeout: float,
        check_every: float = 5.0,
    ) -> None:
        self._prepare, self._ready, self._healthy = prepare, ready, healthy
        self._log, self._ready_timeout, self._check_every = log_file, ready_timeout, check_every
        self._task: asyncio.Task[None] | None = None
        self.running: ProcessId | None = None
        self.restarts = 0

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises what `ready` raises, or `EngineFailed`; once."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep(first))
        try:
            await first
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the process and stop watching."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._task = None

    async def _keep(self, first: asyncio.Future[None]) -> None:
        pause = FIRST_PAUSE
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                await self._once(first)
            except (ServingError, OSError) as error:
                if not first.done():
                    first.set_exception(error)
                    return
                log.error("the engine could not be started again: %s", error)
            if clock() - began > CALM_SECONDS:
                pause = FIRST_PAUSE
            log.warning("the engine has ended; starting it again in %.1f s; its log: %s", pause, self._log)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self.restarts += 1

    async def _once(self, first: asyncio.Future[None]) -> None:
        """One life of the process, from its start to its end."""
        async with AsyncExitStack() as stack:
            stack.callback(setattr, self, "running", None)
            engine = await self._launch(stack)
            died = _death(engine)
            try:
                await _first_of(self._ready(), died, self._ready_timeout)
            except EngineFailed as error:
                await asyncio.wait({died}, timeout=1.0)  # its connections end a moment before it does
                what = "the engine ended before it was ready" if died.done() else str(error)
                end = process.last_words(engine, self._log) if died.done() else process.tail(self._log)
                raise EngineFailed(f"{what}. The end of its log, {self._log}:\n{end}") from None
            self.running = engine
            if not first.done():
                first.set_result(None)
            await self._watch(died)

    async def _watch(self, died: asyncio.Future[None]) -> None:
        missed = 0
        while missed < MISSED:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(died), self._check_every)
                return
            try:
                await self._healthy()
                missed = 0
            except ServingError as error:
                missed += 1
                log.warning("the engine's health check failed (%d of %d): %s", missed, MISSED, error)
        log.error("the engine lives and does not answer; it is ended")

    async def _launch(self, stack: AsyncExitStack) -> ProcessId:
        def begin() -> tuple[ProcessId, contextlib.ExitStack]:
            with contextlib.ExitStack() as held, self._prepare() as launch:
                running = process.running(launch, self._log, None, GRACE_SECONDS, keep=False)
                return held.enter_context(running), held.pop_all()

        beginning = asyncio.ensure_future(asyncio.to_thread(begin))
        try:
            await asyncio.shield(beginning)
        finally:  # also when told to stop meanwhile: what has been started has to be ended
            engine, held = await beginning
            stack.push_async_callback(asyncio.to_thread, held.close)
        return engine


def _death(engine: ProcessId) -> asyncio.Future[None]:
    """Done when the process has ended."""
    loop = asyncio.get_running_loop()
    died: asyncio.Future[None] = loop.create_future()

    def wait() -> None:
        living = engine.find()
        if living is not None:
            with contextlib.suppress(psutil.Error):
                living.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended before the engine
            loop.call_soon_threadsafe(died.set_result, None)

    threading.Thread(target=wait, name="waits for the engine", daemon=True).start()
    return died


async def _first_of(work: Awaitable[None], died: asyncio.Future[None], timeout: float) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, died}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
        return
    task.cancel()
    raise EngineFailed(f"the engine was not ready after {timeout:g} s and has been stopped")
