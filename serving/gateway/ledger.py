"""Token budgets: reserved before a request reaches an engine, settled when it ends, however it ends.

All gateways share the registry's budgets. One thread writes for the whole process, and whatever has
gathered while it wrote goes into its next transaction, so that a busy gateway writes no more often.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime

from registry import Registry
from registry.errors import NotFound, RegistryError
from registry.processes import ProcessId, host_id
from registry.tenancy.budgets import Ask
from serving.gateway.admission import TooMany
from serving.openai_api.errors import ApiError

log = logging.getLogger("tuneline.gateway")

MOST_AT_ONCE = 256
BEAT_SECONDS = 10.0
UNLIMITED = 10**15


@dataclass(frozen=True)
class _Settled:
    reservation: str
    tokens: int


_Work = tuple[Ask, "Future[bool]"] | _Settled | None


class Ledger:
    """The budgets of the registry, for one gateway."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._gateway = ""
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._unwritten: list[_Settled] = []
        self._thread = threading.Thread(target=self._run, name="budgets", daemon=True)

    def start(self) -> int:
        """Charge what gateways that are gone had reserved; returns how many reservations that were."""
        recovered = self._registry.budgets.recover()
        self._open()
        self._thread.start()
        return recovered

    def _open(self) -> None:
        self._gateway = self._registry.budgets.open_gateway(host_id(), ProcessId.of())

    def stop(self) -> None:
        """Write what is left."""
        self._work.put(None)
        self._thread.join()
        try:
            self._registry.budgets.close_gateway(self._gateway)
        except RegistryError as error:
            log.error("budgets: reservations stay until another gateway starts: %s", error)

    async def reserve(self, tenant: str, tokens: int, limit: int | None) -> str:
        """A reservation of `tokens` of the tenant's `limit` of today.

        What a tenant without a limit uses is counted as well, but its requests wait for nothing.
        Raises `TooMany` when they are not left, `ApiError` when the registry does not answer.
        """
        now = datetime.now(UTC)
        most = UNLIMITED if limit is None else limit
        ask = Ask(uuid.uuid4().hex, tenant, tokens, most, now.date().isoformat())
        done: Future[bool] = Future()
        self._work.put((ask, done))
        if limit is None:
            return ask.reservation
        try:
            granted = await asyncio.shield(asyncio.wrap_future(done))
        except asyncio.CancelledError:
            done.add_done_callback(lambda _: self.settle(ask.reservation, 0))
            raise
        except RegistryError as error:
            log.error("budgets: %s", error)
            self.settle(ask.reservation, 0)  # it may have been written all the same
            raise ApiError("budgets cannot be read now", None, 503, "unavailable") from None
        if not granted:
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() + 86400
            message = (
                f"this request may take {tokens} tokens, more than is left of {limit} for today (UTC); "
                "a smaller max_tokens may fit"
            )
            raise TooMany(message, "insufficient_quota", midnight - now.timestamp())
        return ask.reservation

    def settle(self, reservation: str, tokens: int) -> None:
        """Charge what was used of a reservation, and free the rest. Does not wait."""
        self._work.put(_Settled(reservation, tokens))

    def _run(self) -> None:
        look = time.monotonic() + BEAT_SECONDS
        while True:
            try:
                batch = [self._work.get(timeout=max(0.0, look - time.monotonic()))]
            except queue.Empty:
                batch = []
            while len(batch) < MOST_AT_ONCE and not self._work.empty():
                batch.append(self._work.get())
            asks = [work for work in batch if isinstance(work, tuple)]
            settled = [work for work in batch if isinstance(work, _Settled)]
            self._reserve(asks)  # first: a short request's settlement may be in the same batch
            self._settle(self._unwritten + settled)
            if time.monotonic() >= look:
                look = time.monotonic() + BEAT_SECONDS
                self._look()
            if None in batch:
                return

    def _settle(self, settled: list[_Settled]) -> None:
        if not settled:
            return
        try:
            self._registry.budgets.settle([(work.reservation, work.tokens) for work in settled])
            self._unwritten = []
        except Exception as error:  # this thread has to live: every request waits for it
            self._unwritten = settled  # still reserved, so nobody else can spend it
            log.error("budgets: %d settlements wait to be written: %s", len(settled), error)

    def _look(self) -> None:
        """Say that this gateway lives, and charge what those that died without a restart had reserved."""
        try:
            try:
                self._registry.budgets.beat(self._gateway)
            except NotFound:
                self._open()  # silent for so long that another gateway took it for dead
            self._registry.budgets.recover()
        except Exception as error:
            log.error("budgets: %s", error)

    def _reserve(self, asks: list[tuple[Ask, Future[bool]]]) -> None:
        if not asks:
            return
        wanted = [ask for ask, _ in asks]
        try:
            try:
                granted = self._registry.budgets.reserve(self._gateway, wanted)
            except NotFound:
                self._open()
                granted = self._registry.budgets.reserve(self._gateway, wanted)
        except Exception as error:
            for _, done in asks:
                done.set_exception(error)
            return
        for (_, done), ok in zip(asks, granted, strict=True):
            done.set_result(ok)
