"""One lease: how large it is, what is drawn on it, and that the registry's books agree whatever is lost."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import Registry
from registry.processes import ProcessId, host_id
from registry.tenancy.budgets import Grant, Renewal
from serving.gateway.budgets.lease import IDLE_SECONDS, PACE_SECONDS, WORTH_REQUESTS, Lease

DAY = "2026-11-22"
PLENTY = 10**6


@pytest.fixture
def lease() -> Lease:
    return Lease("acme", DAY)


def renewed(lease: Lease, now: float, tokens: int | None = None, share: int = PLENTY) -> Renewal:
    """Answered with `tokens`, or with all that was asked for."""
    renewal = lease.renew(now)
    assert renewal is not None
    most = renewal.held + max(renewal.free, renewal.size)
    lease.renewed(Grant(most if tokens is None else tokens, share))
    return renewal


def busy(lease: Lease, now: float = 0.0) -> None:
    """Three requests of 10 tokens at once, which ended; 30 tokens are leased then."""
    for _ in range(3):
        assert not lease.draw(10, 1000, now)
    assert renewed(lease, now).size == 30


def test_seldom_requests_have_no_lease(lease: Lease) -> None:
    for now in (0.0, 4.0, 8.0, 12.0):
        assert not lease.draw(10, 1000, now)
        assert not lease.is_low(now)
        assert lease.renew(now) is None
    assert lease.is_over(12.0 + IDLE_SECONDS)


def test_it_is_as_large_as_what_was_asked_in_the_last_seconds(lease: Lease) -> None:
    for number in range(1000):
        lease.draw(10, PLENTY, number / 20)
    pace = 10 * 20 * PACE_SECONDS
    assert renewed(lease, 50.0).size == pytest.approx(pace, rel=0.02)
    assert lease.free == pytest.approx(pace, rel=0.02)
    assert renewed(lease, 51.0).size < pace, "a second in which nobody asked"


def test_it_is_low_before_it_is_empty(lease: Lease) -> None:
    busy(lease)
    drawn = 0
    while not lease.is_low(0.0):
        assert lease.draw(1, 1000, 0.0)
        drawn += 1
    assert 0 < drawn < 30
    assert lease.free > 0
    assert lease.draw(1, 1000, 0.0), "while it is topped up"


def test_what_was_used_is_written_and_what_was_not_can_be_drawn_again(lease: Lease) -> None:
    busy(lease)
    assert lease.draw(20, 1000, 0.1)
    assert lease.draw(10, 1000, 0.1)
    assert not lease.draw(1, 1000, 0.1)
    lease.settle(20, 5)
    assert lease.draw(15, 1000, 0.1)
    renewal = lease.renew(0.2)
    assert renewal is not None
    assert (renewal.used, renewal.held, renewal.free) == (5, 25, 0)
    lease.settle(10, 10)
    lease.renewed(Grant(25 + 40, PLENTY))
    assert lease.free == 40
    later = lease.renew(0.3)
    assert later is not None
    assert later.replaces == renewal.reservation
    assert (later.used, later.held, later.free) == (10, 15, 40)


def test_an_idle_lease_is_given_back_and_forgotten(lease: Lease) -> None:
    busy(lease)
    assert lease.draw(10, 1000, 1.0)
    assert not lease.is_over(1.0 + IDLE_SECONDS)
    back = renewed(lease, 1.0 + IDLE_SECONDS)
    assert (back.held, back.free, back.size) == (10, 0, 0)
    assert lease.renew(60.0) is None, "a long answer costs no transaction"
    assert not lease.is_over(60.0)
    lease.settle(10, 3)
    last = renewed(lease, 61.0)
    assert (last.used, last.held) == (3, 0)
    assert lease.is_over(61.0)


def test_a_renewal_is_the_same_until_it_is_answered(lease: Lease) -> None:
    busy(lease)
    lease.draw(10, 1000, 0.0)
    first = lease.renew(0.5)
    assert lease.draw(10, 1000, 0.6), "what is kept can be drawn on"
    lease.settle(10, 10)
    assert lease.renew(0.7) is first
    assert lease.renew(0.8, give_back=True) is first


def test_given_back_for_others_it_keeps_what_requests_hold(lease: Lease) -> None:
    busy(lease)
    assert lease.draw(10, 1000, 0.0)
    back = lease.renew(0.0, give_back=True)
    assert back is not None
    assert (back.held, back.free, back.size) == (10, 0, 0)
    assert not lease.draw(1, 1000, 0.0)


def test_a_lowered_limit_takes_back_what_nobody_drew(lease: Lease) -> None:
    busy(lease)
    assert lease.draw(10, 900, 0.0), "it is told by a request, which was let in before"
    assert not lease.is_low(0.0)
    lowered = renewed(lease, 0.5, tokens=10, share=0)
    assert (lowered.held, lowered.free, lowered.limit) == (10, 0, 900)
    assert not lease.draw(10, 900, 0.6)


def test_a_share_that_shrinks_shrinks_the_lease(lease: Lease) -> None:
    busy(lease)
    assert lease.draw(5, 1000, 0.1)
    assert renewed(lease, 0.1, tokens=5 + 25, share=12).free == 25
    assert renewed(lease, 1.1, tokens=5 + 12, share=12).free == 12
    assert lease.draw(10, 1000, 1.1)
    nearer = renewed(lease, 2.1, tokens=15, share=1)
    assert (nearer.free, nearer.least) == (0, WORTH_REQUESTS * 10), "it would hold less than is worth it"
    assert not lease.is_low(2.1), "nor is the registry asked for each request"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("draw"), st.integers(0, 1), st.integers(1, 60)),
        st.tuples(st.just("settle"), st.integers(0, 1), st.integers(0, 60)),
        st.tuples(st.just("renew"), st.integers(0, 1), st.sampled_from(["answered", "lost", "back"])),
        st.tuples(st.just("limit"), st.just(0), st.integers(100, 1200)),
    ),
    max_size=40,
)
_days = count(1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.open(Path(tmp_path_factory.mktemp("lease")) / "home") as found:
        found.tenants.add("acme", "team/prod", "ada")
        yield found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_two_gateways_are_never_over_and_lose_nothing(
    registry: Registry, steps: list[tuple[str, int, Any]]
) -> None:
    budgets, day = registry.budgets, f"{next(_days):010}"
    gateways = [budgets.open_gateway(host_id(), ProcessId.of()) for _ in range(2)]
    leases = [Lease("acme", day) for _ in gateways]
    drawn: list[list[int]] = [[], []]
    limit = highest = 1000
    used = 0

    def renew(which: int, how: str) -> None:
        renewal = leases[which].renew(now, give_back=how == "back")
        if renewal is not None:
            grants, _ = budgets.renew(gateways[which], [renewal])
            if how != "lost":
                leases[which].renewed(grants[0])

    for at, (what, which, value) in enumerate(steps):
        now = at / 10
        if what == "draw" and leases[which].draw(value, limit, now):
            drawn[which].append(value)
        elif what == "settle" and drawn[which]:
            tokens = drawn[which].pop(0)
            used += min(tokens, value)
            leases[which].settle(tokens, min(tokens, value))
        elif what == "renew":
            renew(which, value)
        elif what == "limit":
            limit, highest = value, max(highest, value)
        counted, reserved = budgets.spent("acme", day)
        assert used + sum(drawn[0]) + sum(drawn[1]) <= counted + reserved <= highest
    for which, lease in enumerate(leases):
        for tokens in drawn[which]:
            lease.settle(tokens, 0)
        now = len(steps) / 10 + IDLE_SECONDS
        renew(which, "answered")
        renew(which, "answered")
        assert lease.is_over(now)
    assert budgets.spent("acme", day) == (used, 0)
