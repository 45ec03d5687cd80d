"""The budgets of gateways: from a lease nobody waits, and whatever is killed or lost, no limit is passed."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import select

from registry import Registry
from registry.db.serving_tables import gateways
from registry.errors import StoreFailed
from registry.tenancy.tenants import TenantLimits
from serving.gateway.admission import TooMany
from serving.gateway.budgets import ledger as ledgers
from serving.gateway.budgets.lease import IDLE_SECONDS
from serving.gateway.budgets.ledger import Ledger, Reservation
from serving.openai_api.errors import ApiError
from tests.registry import servers
from tests.registry.backends import Backend
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import until

ROOT = Path(__file__).resolve().parents[4]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
DAY, NEXT = "2026-11-22", "2026-11-23"


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "RENEW_SECONDS", 0.02)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[servers.PostgreSQL | None]:
    if request.param == "sqlite":
        yield None
        return
    with servers.postgresql() as found:
        yield found


@pytest.fixture
def backend(server: servers.PostgreSQL | None, tmp_path: Path) -> Iterator[Backend]:
    url = server.fresh() if server is not None else None
    yield Backend(tmp_path / "home", url)
    if server is not None and url is not None:
        server.drop(url)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as found:
        found.tenants.add("acme", "team/acme", "tests", TenantLimits(tokens_per_day=1000))
        yield found


@contextmanager
def running(registry: Registry, clock: Callable[[], float]) -> Iterator[Ledger]:
    ledger = Ledger(registry, clock)
    ledger.start()
    try:
        yield ledger
    finally:
        ledger.stop()


@pytest.fixture
def ledger(registry: Registry, clock: Clock) -> Iterator[Ledger]:
    with running(registry, clock) as found:
        yield found


def reserve(ledger: Ledger, tokens: int, limit: int | None = 1000) -> Reservation:
    return asyncio.run(ledger.reserve("acme", tokens, limit))


def at_once(asked: Coroutine[Any, Any, Reservation]) -> Reservation:
    """What a coroutine returns that waits for nothing."""
    try:
        asked.send(None)
    except StopIteration as ended:
        found: Reservation = ended.value
        return found
    asked.close()
    raise AssertionError("it waits")


def leased(ledger: Ledger, registry: Registry) -> None:
    """Two requests of 10 tokens, each of which used 1; 20 tokens are leased then."""
    for one in [reserve(ledger, 10) for _ in range(2)]:
        ledger.settle(one, 1)
    until(lambda: registry.budgets.spent("acme", DAY) == (2, 20), "a lease for two more")


def test_from_a_lease_nobody_waits_and_it_is_topped_up_before_it_is_empty(
    registry: Registry, clock: Clock
) -> None:
    with running(registry, clock) as ledger:
        leased(ledger, registry)
        drawn = [at_once(ledger.reserve("acme", 4, 1000)) for _ in range(4)]
        until(lambda: registry.budgets.spent("acme", DAY)[1] > 30, "it is topped up, with 4 tokens left")
        for one in drawn:
            ledger.settle(one, 3)
        until(lambda: registry.budgets.spent("acme", DAY)[0] == 14, "what was used is written")
    assert registry.budgets.spent("acme", DAY) == (14, 0), "the rest is given back"


def test_a_tenant_without_a_limit_waits_for_nothing(ledger: Ledger, registry: Registry) -> None:
    made = [at_once(ledger.reserve("acme", 10**6, None)) for _ in range(5)]
    for one in made:
        ledger.settle(one, 7)
    until(lambda: registry.budgets.spent("acme", DAY) == (35, 0), "it is counted")


def test_an_idle_lease_comes_back_for_other_gateways(
    ledger: Ledger, registry: Registry, clock: Clock
) -> None:
    with running(registry, clock) as other:
        leased(ledger, registry)
        with pytest.raises(TooMany):
            reserve(other, 979)
        clock.now += IDLE_SECONDS
        until(lambda: registry.budgets.spent("acme", DAY) == (2, 0), "it is given back")
        other.settle(reserve(other, 998), 998)


def test_near_the_limit_the_last_token_can_be_used(ledger: Ledger, registry: Registry) -> None:
    leased(ledger, registry)
    whole = reserve(ledger, 998)
    assert registry.budgets.spent("acme", DAY) == (2, 998), "its own lease was given back for it"
    with pytest.raises(TooMany, match="more than is left of 1000"):
        reserve(ledger, 1)
    ledger.settle(whole, 898)
    until(lambda: registry.budgets.spent("acme", DAY)[0] == 900, "it is settled")
    for _ in range(10):
        ledger.settle(reserve(ledger, 10), 10)
    with pytest.raises(TooMany):
        reserve(ledger, 1)
    until(lambda: registry.budgets.spent("acme", DAY) == (1000, 0), "all is used")


def test_a_new_day_has_a_lease_of_its_own(ledger: Ledger, registry: Registry, clock: Clock) -> None:
    clock.now = NOON + 12 * 3600 - 0.5
    leased(ledger, registry)
    late = at_once(ledger.reserve("acme", 10, 1000))
    clock.now += 0.5
    early = reserve(ledger, 10)
    assert early.lease is None, "nothing of the new day is leased yet"
    assert registry.budgets.spent("acme", NEXT)[1] >= 10
    ledger.settle(late, 6)
    ledger.settle(early, 5)
    clock.now += IDLE_SECONDS
    until(lambda: registry.budgets.spent("acme", DAY) == (8, 0), "it belongs to the day it came on")
    until(lambda: registry.budgets.spent("acme", NEXT) == (5, 0), "each has its own")
    with pytest.raises(TooMany) as refused:
        reserve(ledger, 996)
    assert refused.value.retry_after == 24 * 3600 - IDLE_SECONDS


def test_a_lowered_limit_takes_the_lease_back(ledger: Ledger, registry: Registry) -> None:
    leased(ledger, registry)
    ledger.settle(at_once(ledger.reserve("acme", 5, 8)), 5)
    until(lambda: registry.budgets.spent("acme", DAY) == (7, 0), "nothing is leased of what is not there")
    with pytest.raises(TooMany):
        reserve(ledger, 2, 8)
    ledger.settle(reserve(ledger, 1, 8), 1)


def test_without_the_database_requests_go_on_from_the_lease(
    ledger: Ledger, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased(ledger, registry)
    tried = threading.Event()

    def away(*_: object) -> NoReturn:
        tried.set()
        raise StoreFailed("the server is away")

    with monkeypatch.context() as patched:
        for name in ("reserve", "renew", "settle", "beat"):
            patched.setattr(registry.budgets, name, away)
        for _ in range(2):
            ledger.settle(at_once(ledger.reserve("acme", 10, 1000)), 9)
            assert tried.wait(seconds(30))
        with pytest.raises(ApiError) as refused:
            reserve(ledger, 10)
        assert refused.value.status == 503
    until(lambda: registry.budgets.spent("acme", DAY)[0] == 20, "what was used is written when it is back")
    assert reserve(ledger, 1).lease is not None


def test_a_lost_answer_loses_no_lease(
    ledger: Ledger, registry: Registry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, lost = registry.budgets.renew, threading.Event()

    def once(*asked: Any) -> Any:
        answer = renew(*asked)
        if not lost.is_set():
            lost.set()
            raise StoreFailed("the connection was lost after the commit")
        return answer

    made = [reserve(ledger, 10) for _ in range(2)]
    monkeypatch.setattr(registry.budgets, "renew", once)
    clock.now += 0.1
    made.append(reserve(ledger, 10))
    assert lost.wait(seconds(30))
    clock.now += IDLE_SECONDS
    for one in made:
        ledger.settle(one, 2)
    until(lambda: registry.budgets.spent("acme", DAY) == (6, 0), "all that was leased comes back")


def test_a_gateway_that_was_taken_for_dead_leases_anew(registry: Registry, clock: Clock) -> None:
    with running(registry, clock) as ledger:
        leased(ledger, registry)
        held = at_once(ledger.reserve("acme", 10, 1000))
        with registry.database.read() as connection:
            silent = connection.execute(select(gateways.c.id)).scalar_one()
        registry.budgets.close_gateway(silent)  # as `recover` does on another host
        charged, _ = registry.budgets.spent("acme", DAY)
        assert charged >= 22
        ledger.settle(held, 10)
        ledger.settle(reserve(ledger, 500), 500)
        until(lambda: registry.budgets.spent("acme", DAY)[0] == charged + 500, "nothing is counted twice")
    assert registry.budgets.spent("acme", DAY) == (charged + 500, 0)


KILLED = """
import asyncio, sys
from pathlib import Path
from registry import Registry
from serving.gateway.budgets.ledger import Ledger

async def ask(ledger):
    while True:
        reservation = await ledger.reserve("acme", 10, 1000)
        ledger.settle(reservation, 5)
        if reservation.lease is not None:
            return [await ledger.reserve("acme", 1, 1000) for _ in range(4)]
        await asyncio.sleep(0.001)

registry = Registry.open(Path(sys.argv[1]), sys.argv[2] or None)
ledger = Ledger(registry)
ledger.start()
held = asyncio.run(ask(ledger))
assert any(one.lease is not None for one in held)
print("drawn", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_gateway_had_leased_is_charged_in_full(backend: Backend) -> None:
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    with backend.open() as registry:
        registry.tenants.add("acme", "team/acme", "tests", TenantLimits(tokens_per_day=1000))
        command = [sys.executable, "-c", KILLED, str(backend.home), backend.database_url or ""]
        with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "drawn"
            process.send_signal(signal.SIGKILL)
        used, reserved = registry.budgets.spent("acme", today)
        assert reserved >= 4
        with running(registry, time.time) as other:
            assert registry.budgets.spent("acme", today) == (used + reserved, 0)
            with pytest.raises(TooMany):
                reserve(other, 1000 - used - reserved + 1)
            reserve(other, 1000 - used - reserved)


LIMIT = 10_000
LEDGERS = 10
BEGAN = time.monotonic()


def _spend(backend: Backend, start: Any, stop: Any, used: Any, refused: Any, seed: int) -> None:
    """Ask until the day's tokens are gone, in one of many processes."""
    chance = random.Random(seed)

    async def one(ledger: Ledger, requests: int) -> tuple[int, int]:
        spent = refusals = 0
        for _ in range(requests):
            tokens = chance.randint(1, 40)
            try:
                reservation = await ledger.reserve("acme", tokens, LIMIT)
            except TooMany:
                refusals += 1
                continue
            await asyncio.sleep(0)
            spent += (took := chance.randint(0, tokens))
            ledger.settle(reservation, took)
        return spent, refusals

    async def all_of_them(ledger: Ledger) -> list[tuple[int, int]]:
        return await asyncio.gather(*(one(ledger, 40) for _ in range(8)))

    with backend.open() as registry, running(registry, lambda: NOON + time.monotonic() - BEGAN) as ledger:
        start.wait(seconds(120))
        counts = asyncio.run(all_of_them(ledger))
        with used.get_lock(), refused.get_lock():
            used.value += sum(spent for spent, _ in counts)
            refused.value += sum(refusals for _, refusals in counts)
        start.wait(seconds(120))
        assert stop.wait(seconds(120))


def test_ten_gateways_at_once_are_never_over_and_leave_nothing_unused(backend: Backend) -> None:
    context = multiprocessing.get_context("fork")
    start, stop = context.Barrier(LEDGERS + 1), context.Event()
    used, refused = context.Value("i", 0), context.Value("i", 0)
    with backend.open() as registry:
        registry.tenants.add("acme", "team/acme", "tests", TenantLimits(tokens_per_day=LIMIT))
    shared = (backend, start, stop, used, refused)
    processes = [context.Process(target=_spend, args=(*shared, seed)) for seed in range(LEDGERS)]
    for process in processes:
        process.start()
    with backend.open() as registry:
        start.wait(seconds(120))
        highest = 0
        while start.n_waiting < LEDGERS:
            highest = max(highest, sum(registry.budgets.spent("acme", DAY)))
        start.wait(seconds(120))
        assert highest <= LIMIT
        assert refused.value > 0
        until(lambda: registry.budgets.spent("acme", DAY) == (used.value, 0), "what is idle comes back")
        with running(registry, Clock()) as last:
            left = LIMIT - used.value
            last.settle(reserve(last, left, LIMIT), left)
            with pytest.raises(TooMany):
                reserve(last, 1, LIMIT)
        stop.set()
    for process in processes:
        process.join(seconds(60))
    assert [process.exitcode for process in processes] == [0] * LEDGERS
