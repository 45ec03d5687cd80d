"""Token budgets: never over the limit, whoever asks at once, and none lost when a gateway is killed."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
import uuid
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from registry import Registry
from registry.db.serving_tables import gateways
from registry.errors import InvalidArtifact, NotFound
from registry.processes import ProcessId, host_id
from registry.tenancy.budgets import SHARES, SILENT_SECONDS, Ask, Grant, Renewal
from tests.registry.backends import Backend, only
from tests.seconds import seconds

pytestmark = only("local")

DAY = "2026-11-22"


def opened(registry: Registry) -> str:
    """A tenant, and a gateway of this process."""
    registry.tenants.add("acme", "team/prod", "ada")
    return registry.budgets.open_gateway(host_id(), ProcessId.of())


def ask(tokens: int, limit: int = 100, tenant: str = "acme", day: str = DAY) -> Ask:
    return Ask(uuid.uuid4().hex, tenant, tokens, limit, day)


def test_what_is_reserved_is_settled(registry: Registry) -> None:
    gateway, budgets = opened(registry), registry.budgets
    registry.tenants.add("other", "team/prod", "ada")
    assert budgets.spent("acme", DAY) == (0, 0)
    asks = [ask(60), ask(50), ask(40), ask(1), ask(100, tenant="other"), ask(100, day="2026-11-23")]
    assert budgets.reserve(gateway, asks) == [True, False, True, False, True, True]
    assert budgets.spent("acme", DAY) == (0, 100)
    budgets.settle([(asks[0].reservation, 10), (asks[2].reservation, 45), (asks[4].reservation, 0)])
    assert budgets.spent("acme", DAY) == (55, 0), "more than was reserved counts too"
    assert budgets.spent("other", DAY) == (0, 0)
    assert budgets.spent("acme", "2026-11-23") == (0, 100)
    assert budgets.reserve(gateway, [ask(46), ask(45)]) == [False, True]


def test_nothing_is_counted_twice(registry: Registry) -> None:
    gateway, budgets = opened(registry), registry.budgets
    first = ask(30)
    assert budgets.reserve(gateway, [first]) == [True]
    assert budgets.reserve(gateway, [first, first]) == [True, True]
    assert budgets.spent("acme", DAY) == (0, 30)
    assert budgets.reserve(gateway, [ask(70), first]) == [True, True]
    assert budgets.reserve(gateway, [first, ask(1)]) == [True, False], "granted, though nothing is left"
    for _ in range(2):
        budgets.settle([(first.reservation, 7), (first.reservation, 9)])
    assert budgets.spent("acme", DAY) == (7, 70)
    budgets.settle([(uuid.uuid4().hex, 1000)])
    budgets.settle([])
    assert budgets.reserve(gateway, []) == []
    assert budgets.spent("acme", DAY) == (7, 70)


def test_bad_calls_change_nothing(registry: Registry) -> None:
    gateway, budgets = opened(registry), registry.budgets
    held = ask(10)
    assert budgets.reserve(gateway, [held]) == [True]
    for call, error, match in (
        (lambda: budgets.reserve("f" * 16, [ask(1)]), NotFound, "unknown gateway"),
        (lambda: budgets.reserve(gateway, [ask(1), ask(1, tenant="nobody")]), NotFound, "at least one of"),
        (lambda: budgets.reserve(gateway, [ask(1), ask(-1)]), InvalidArtifact, "below 0"),
        (lambda: budgets.reserve(gateway, [Ask("short", "acme", 1, 100, DAY)]), InvalidArtifact, "refused"),
        (lambda: budgets.settle([(held.reservation, -1)]), InvalidArtifact, "below 0"),
        (lambda: budgets.beat("f" * 16), NotFound, "open it again"),
    ):
        with pytest.raises(error, match=match):
            call()
        assert budgets.spent("acme", DAY) == (0, 10)


def lease(size: int, limit: int = 100, **of_the_last: Any) -> Renewal:
    nothing = {"replaces": "", "used": 0, "held": 0, "free": 0, "least": 1}
    known = {"reservation": uuid.uuid4().hex, "tenant": "acme", "day": DAY, "limit": limit, "size": size}
    return Renewal(**(nothing | known | of_the_last))


def test_a_lease_is_as_large_as_wanted_and_no_larger_than_its_share(registry: Registry) -> None:
    gateway, budgets = opened(registry), registry.budgets
    share = 1000 // SHARES
    small, large = lease(100, limit=1000), lease(10**6, limit=1000)
    assert budgets.renew(gateway, [small]) == ([Grant(100, share)], [])
    second = (1000 - 100) // SHARES
    assert budgets.renew(gateway, [large]) == ([Grant(second, second)], [])
    assert budgets.spent("acme", DAY) == (0, 100 + second)
    third = (1000 - 100 - second) // SHARES
    for least, tokens in ((third + 1, 0), (third, third)):
        assert budgets.renew(gateway, [lease(500, limit=1000, least=least)]) == ([Grant(tokens, third)], [])
    assert budgets.spent("acme", DAY) == (0, 100 + second + third), "a lease of nothing is no row"


def test_a_lease_that_ends_is_counted_and_what_it_holds_stays(registry: Registry) -> None:
    gateway, budgets = opened(registry), registry.budgets
    first = lease(80, limit=1000)
    budgets.renew(gateway, [first])
    of_it = {"replaces": first.reservation, "used": 30, "held": 20}
    lowered = lease(500, limit=10, free=25, **of_it)
    for _ in range(2):
        assert budgets.renew(gateway, [lowered]) == ([Grant(45, 0)], []), "its answer was lost, or not"
        assert budgets.spent("acme", DAY) == (30, 45)
    back = lease(0, limit=1000, replaces=lowered.reservation, used=20, held=0)
    asks = [ask(951, limit=1000), ask(950, limit=1000)]
    assert budgets.renew(gateway, [back], asks) == ([Grant(0, 0)], [False, True])
    assert budgets.spent("acme", DAY) == (50, 950), "what is given back is there for the asks"
    gone = lease(0, limit=1000, replaces=first.reservation, used=9, held=9, free=9)
    assert budgets.renew(gateway, [gone]) == ([Grant(0, 0)], [])
    assert budgets.spent("acme", DAY) == (50, 950), "one that had ended before changes nothing"
    with pytest.raises(InvalidArtifact, match="below 0"):
        budgets.renew(gateway, [lease(-1)])
    with pytest.raises(NotFound, match="unknown gateway"):
        budgets.renew("f" * 16, [lease(100, limit=10_000)])


def test_what_a_lease_holds_is_not_granted_to_others_in_the_same_transaction(registry: Registry) -> None:
    gateway, budgets = opened(registry), registry.budgets
    first = lease(90, limit=1000)
    budgets.renew(gateway, [first])
    back = lease(0, replaces=first.reservation, used=10, held=50, free=10)
    asks = [ask(31), ask(30)]
    assert budgets.renew(gateway, [back], asks) == ([Grant(60, 10 // SHARES)], [False, True])
    assert budgets.spent("acme", DAY) == (10, 90)


def _ask_at_once(backend: Backend, start: Any, granted: Any, answered: Any) -> None:
    with backend.open() as registry:
        gateway = registry.budgets.open_gateway(host_id(), ProcessId.of())
        start.wait(seconds(60))

        def one() -> None:
            mine = sum(registry.budgets.reserve(gateway, [ask(30, limit=1000)]))
            with granted.get_lock(), answered.get_lock():
                granted.value += mine
                answered.value += 1

        threads = [threading.Thread(target=one) for _ in range(25)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds(60))


def test_100_requests_at_once_on_a_nearly_empty_budget(backend: Backend) -> None:
    with backend.open() as registry:
        gateway = opened(registry)
        assert registry.budgets.reserve(gateway, [ask(800, limit=1000)]) == [True]
    context = multiprocessing.get_context("fork")
    start, granted, answered = context.Barrier(4), context.Value("i", 0), context.Value("i", 0)
    shared = (backend, start, granted, answered)
    processes = [context.Process(target=_ask_at_once, args=shared) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds(120))
    assert [process.exitcode for process in processes] == [0] * 4
    assert (answered.value, granted.value) == (100, 6)
    with backend.open() as registry:
        assert registry.budgets.spent("acme", DAY) == (0, 800 + 6 * 30)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.lists(st.integers(0, 60), min_size=1, max_size=5)),
        st.tuples(st.just("settle"), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 70)), max_size=4)),
        st.tuples(st.just("again"), st.integers(0, 9)),
    ),
    max_size=15,
)
_days = count(1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_order_of_reserving_and_settling(registry: Registry, steps: list[tuple[str, Any]]) -> None:
    gateway = (
        opened(registry)
        if not registry.tenants.ls()
        else registry.budgets.open_gateway(host_id(), ProcessId(1, 1.0))
    )
    day = f"{next(_days):010}"
    used, held, made = 0, {}, []
    for what, value in steps:
        if what == "reserve":
            asks = [ask(tokens, day=day) for tokens in value]
            for one, granted in zip(asks, registry.budgets.reserve(gateway, asks), strict=True):
                assert granted == (used + sum(held.values()) + one.tokens <= 100)
                if granted:
                    held[one.reservation] = one.tokens
                    made.append(one)
        elif what == "settle":
            chosen = [(made[at % len(made)].reservation, tokens) for at, tokens in value if made]
            registry.budgets.settle(chosen)
            for reservation, tokens in chosen:
                if held.pop(reservation, None) is not None:
                    used += tokens
        elif made and made[value % len(made)].reservation in held:
            assert registry.budgets.reserve(gateway, [made[value % len(made)]]) == [True]
        assert registry.budgets.spent("acme", day) == (used, sum(held.values()))
    registry.budgets.close_gateway(gateway)
    assert registry.budgets.spent("acme", day) == (used + sum(held.values()), 0)


GATEWAY = """
import os, sys
from pathlib import Path
from registry import Registry
from registry.tenancy.budgets import Ask
from registry.processes import ProcessId, host_id

registry = Registry.open(Path(sys.argv[1]), sys.argv[2] or None)
gateway = registry.budgets.open_gateway(host_id(), ProcessId.of())
asks = [Ask(f"{number:032x}", "acme", 10, 100, "2026-11-22") for number in range(3)]
assert all(registry.budgets.reserve(gateway, asks))
registry.budgets.settle([(asks[0].reservation, 4)])
print(gateway, flush=True)
sys.stdin.read()
"""


def test_a_gateway_that_is_killed_is_charged_in_full(registry: Registry, backend: Backend) -> None:
    living, budgets = opened(registry), registry.budgets
    assert budgets.reserve(living, [ask(5)]) == [True]
    command = [sys.executable, "-c", GATEWAY, str(backend.home), backend.database_url or ""]
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(command, cwd=root, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        killed = process.stdout.readline().strip()
        assert budgets.spent("acme", DAY) == (4, 25)
        assert budgets.recover() == 0, "both live"
        process.send_signal(signal.SIGKILL)
    assert budgets.spent("acme", DAY) == (4, 25)
    assert budgets.recover() == 2
    assert budgets.spent("acme", DAY) == (24, 5)
    budgets.settle([(f"{1:032x}", 3)])
    assert budgets.recover() == 0
    assert budgets.spent("acme", DAY) == (24, 5), "a settlement that comes late changes nothing"
    with pytest.raises(NotFound, match="counted as dead"):
        budgets.reserve(killed, [ask(1)])
    assert budgets.reserve(living, [ask(1)]) == [True]


def test_a_gateway_elsewhere_is_dead_when_it_is_silent(registry: Registry) -> None:
    opened(registry)
    budgets = registry.budgets
    silent, busy = (budgets.open_gateway("elsewhere", ProcessId(1, 1.0)) for _ in range(2))

    def be_silent(*ids: str, seconds: float) -> None:
        with registry.database.write() as connection:
            late = {"beat": time.time() - seconds}
            connection.execute(update(gateways).where(gateways.c.id.in_(ids)), late)

    assert budgets.reserve(silent, [ask(10)]) + budgets.reserve(busy, [ask(20)]) == [True, True]
    be_silent(silent, busy, seconds=SILENT_SECONDS - 5)
    assert budgets.recover() == 0
    be_silent(silent, busy, seconds=SILENT_SECONDS + 5)
    budgets.beat(busy)
    assert budgets.recover() == 1
    assert budgets.spent("acme", DAY) == (10, 20)
    be_silent(busy, seconds=SILENT_SECONDS + 5)
    assert budgets.reserve(busy, [ask(1)]) == [True]
    assert budgets.recover() == 0, "a grant is a sign of life"
    with pytest.raises(NotFound, match="open it again"):
        budgets.beat(silent)
    assert budgets.close_gateway(busy) == 2
    assert budgets.spent("acme", DAY) == (31, 0)


def test_counting_does_not_wait_for_the_disk_and_all_else_does(registry: Registry) -> None:
    sqlite = registry.database.engine.dialect.name == "sqlite"
    setting = "PRAGMA synchronous" if sqlite else "SHOW synchronous_commit"
    found = []
    for transaction in (registry.database.count, registry.database.write, registry.database.count):
        with transaction() as connection:
            found.append(connection.exec_driver_sql(setting).scalar())
    assert found == ([1, 2, 1] if sqlite else ["off", "on", "off"])


def test_on_a_server_counting_does_not_wait_for_a_publication(registry: Registry) -> None:
    if registry.database.engine.dialect.name == "sqlite":
        with registry.database.read(), registry.database.count():
            return  # one writer per file; readers do not count
    gateway = opened(registry)
    with registry.database.write() as connection:
        connection.exec_driver_sql("SELECT 1")
        assert registry.budgets.reserve(gateway, [ask(1)]) == [True]
