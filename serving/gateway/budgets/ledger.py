"""Token budgets: reserved before a request reaches an engine, settled when it ends, however it ends.

All gateways share the registry's budgets. Requests draw on a lease of their tenant's; where there is none, or
too little in it, each waits for a reservation of its own. One thread writes for the whole process: it
renews leases in the background, and whatever has gathered while it wrote goes into its next transaction, so
that a busy gateway writes no more often.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime

from registry import Registry
from registry.errors import NotFound, RegistryError
from registry.processes import ProcessId, host_id
from registry.tenancy.budgets import Ask
from serving.gateway.admission import TooMany
from serving.gateway.budgets.lease import Lease
from serving.openai_api.errors import ApiError

log = logging.getLogger("tuneline.gateway")

MOST_AT_ONCE = 256
BEAT_SECONDS = 10.0
RENEW_SECONDS = 1.0
"""So often what was used of leases is written, and what they no longer need is given back."""
UNLIMITED = 10**15


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens for one request: `tokens` of a lease, or what the registry has under the `id`."""

    id: str
    lease: Lease | None = None
    tokens: int = 0


@dataclass(frozen=True)
class _Settled:
    reservation: str
    tokens: int


_Asked = tuple[Ask, "Future[Reservation | None] | None"]
_Work = _Asked | _Settled | Lease | None
"""A request, which waits for its reservation or for nothing; its end; a lease that is low; the end of all."""


class Ledger:
    """The budgets of the registry, for one gateway."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since the epoch, which say what day it is and how fast tenants ask."""
        self._registry, self._clock = registry, clock
        self._gateway = ""
        self._leases: dict[tuple[str, str], Lease] = {}
        self._low: set[Lease] = set()
        self._turn = threading.Lock()
        """For the leases; never held while the registry is asked."""
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
        with self._turn:
            self._low.clear()
            self._leases.clear()  # the ones of before were charged in full

    def stop(self) -> None:
        """Write what is left."""
        self._work.put(None)
        self._thread.join()
        try:
            self._registry.budgets.close_gateway(self._gateway)
        except RegistryError as error:
            log.error("budgets: reservations stay until another gateway starts: %s", error)

    async def reserve(self, tenant: str, tokens: int, limit: int | None) -> Reservation:
        """`tokens` of the tenant's `limit` of today; it waits only where its lease has fewer.

        What a tenant without a limit uses is counted as well, but its requests wait for nothing.
        Raises `TooMany` when they are not left, `ApiError` when the registry does not answer.
        """
        now = self._clock()
        day = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}"
        if limit is None:
            ask = Ask(uuid.uuid4().hex, tenant, tokens, UNLIMITED, day)
            self._work.put((ask, None))
            return Reservation(ask.reservation)
        with self._turn:
            lease = self._leases.get((tenant, day)) or self._leases.setdefault(
                (tenant, day), Lease(tenant, day)
            )
            drawn = lease.draw(tokens, limit, now)
            low = lease not in self._low and lease.is_low(now)
            if low:
                self._low.add(lease)
        if low:
            self._work.put(lease)
        if drawn:
            return Reservation("", lease, tokens)
        return await self._wait(Ask(uuid.uuid4().hex, tenant, tokens, limit, day), now)

    async def _wait(self, ask: Ask, now: float) -> Reservation:
        """For a reservation of its own, or of a lease that was topped up meanwhile; raises as `reserve`."""
        done: Future[Reservation | None] = Future()
        self._work.put((ask, done))
        try:
            granted = await asyncio.shield(asyncio.wrap_future(done))
        except asyncio.CancelledError:
            done.add_done_callback(lambda _: self._give_up(ask, done))
            raise
        except RegistryError as error:
            log.error("budgets: %s", error)
            self.settle(Reservation(ask.reservation), 0)  # it may have been written all the same
            raise ApiError("budgets cannot be read now", None, 503, "unavailable") from None
        if granted is None:
            message = (
                f"this request may take {ask.tokens} tokens, more than is left of {ask.limit} for today "
                "(UTC); a smaller max_tokens may fit"
            )
            raise TooMany(message, "insufficient_quota", 86400 - now % 86400)
        return granted

    def _give_up(self, ask: Ask, done: Future[Reservation | None]) -> None:
        """Nobody waits for the reservation any more; it may have been written all the same."""
        granted = None if done.exception() is not None else done.result()
        self.settle(granted or Reservation(ask.reservation), 0)

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """Charge what was used of a reservation, and free the rest. Does not wait."""
        if reservation.lease is None:
            self._work.put(_Settled(reservation.id, tokens))
            return
        with self._turn:
            reservation.lease.settle(reservation.tokens, tokens)

    def _run(self) -> None:
        looked = renewed = time.monotonic()
        while True:
            batch = self._gather(min(looked + BEAT_SECONDS, renewed + RENEW_SECONDS))
            with self._turn:
                low, self._low = list(self._low), set()
            self._try_renew(low)  # first, for requests that wait may be covered then
            # a short request's settlement may be in the same batch
            self._reserve(self._still_waiting(batch))
            self._settle(self._unwritten + [work for work in batch if isinstance(work, _Settled)])
            if None in batch:
                self._renew_all(give_back=True)
                return
            now = time.monotonic()
            if now >= renewed + RENEW_SECONDS:
                renewed = now
                self._renew_all()
            if now >= looked + BEAT_SECONDS:
                looked = now
                self._look()

    def _gather(self, until: float) -> list[_Work]:
        """All work there is; where there is none, what comes first, if it comes by then."""
        try:
            batch = [self._work.get(timeout=max(0.0, until - time.monotonic()))]
        except queue.Empty:
            return []
        while len(batch) < MOST_AT_ONCE and not self._work.empty():
            batch.append(self._work.get())
        return batch

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
            self._revive()
            self._registry.budgets.recover()
        except Exception as error:
            log.error("budgets: %s", error)

    def _revive(self) -> bool:
        """Whether it was silent for so long that another gateway took it for dead; it is open again then."""
        try:
            self._registry.budgets.beat(self._gateway)
        except NotFound:
            self._open()
            return True
        return False

    def _still_waiting(self, batch: Sequence[_Work]) -> list[_Asked]:
        """The requests, but for those whose tokens are leased by now."""
        waiting = []
        for work in batch:
            if not isinstance(work, tuple):
                continue
            ask, done = work
            with self._turn:
                lease = self._leases.get((ask.tenant, ask.day)) if done is not None else None
                taken = lease is not None and lease.take(ask.tokens)
            if done is not None and taken:
                done.set_result(Reservation("", lease, ask.tokens))
            else:
                waiting.append(work)
        return waiting

    def _reserve(self, asked: Sequence[_Asked]) -> None:
        if not asked:
            return
        asks = [ask for ask, _ in asked]
        try:
            try:
                granted = self._granted(asks)
            except NotFound:
                if not self._revive():
                    raise
                granted = self._granted(asks)
        except Exception as error:
            for _, done in asked:
                if done is not None:
                    done.set_exception(error)
            return
        for (ask, done), ok in zip(asked, granted, strict=True):
            if done is not None:
                done.set_result(Reservation(ask.reservation) if ok else None)

    def _granted(self, asks: Sequence[Ask]) -> list[bool]:
        """Nothing is refused for want of tokens that this gateway's own leases have: these are given back."""
        granted = self._registry.budgets.reserve(self._gateway, asks)
        refused = {(ask.tenant, ask.day) for ask, ok in zip(asks, granted, strict=True) if not ok}
        with self._turn:
            known = [lease for key in refused if (lease := self._leases.get(key)) is not None]
            own = [lease for lease in known if lease.free > 0 or lease.renewal is not None]
        return self._give_back(own, asks) if own else granted

    def _give_back(self, leases: Sequence[Lease], asks: Sequence[Ask] = ()) -> list[bool]:
        """All that these leases have for requests to come; which asks are granted then."""
        self._renew([lease for lease in leases if lease.renewal is not None])  # it had failed
        return self._renew(leases, asks, give_back=True)

    def _renew_all(self, give_back: bool = False) -> None:
        now = self._clock()
        with self._turn:
            self._leases = {key: one for key, one in self._leases.items() if not one.is_over(now)}
            leases = list(self._leases.values())
        for start in range(0, len(leases), MOST_AT_ONCE):
            self._try_renew(leases[start : start + MOST_AT_ONCE], give_back)

    def _try_renew(self, leases: Sequence[Lease], give_back: bool = False) -> None:
        try:
            if give_back:
                self._give_back(leases)
            else:
                self._renew(leases)
        except NotFound:
            self._look()
        except Exception as error:
            log.error("budgets: %d leases wait to be renewed: %s", len(leases), error)

    def _renew(
        self, leases: Iterable[Lease], asks: Sequence[Ask] = (), give_back: bool = False
    ) -> list[bool]:
        """Which asks are granted in the same transaction."""
        now = self._clock()
        with self._turn:
            mine = [one for one in leases if self._leases.get((one.tenant, one.day)) is one]
            renewals = [(one, asked) for one in mine if (asked := one.renew(now, give_back)) is not None]
        wanted = [renewal for _, renewal in renewals]
        grants, granted = self._registry.budgets.renew(self._gateway, wanted, asks)
        with self._turn:
            for (lease, _), grant in zip(renewals, grants, strict=True):
                lease.renewed(grant)
        return granted
