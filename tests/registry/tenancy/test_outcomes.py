"""Live outcomes: what gateways counted, put together for people and for the gate."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry import Artifact, Registry
from registry.errors import InvalidArtifact
from registry.tenancy.outcomes import Outcome, percentile
from tests.registry.backends import only
from tests.registry.db.test_database import refused

AT = datetime(2026, 11, 22, 6, 30, tzinfo=UTC)


def outcome(artifact: str = "a" * 64, **changes: Any) -> Outcome:
    known: dict[str, Any] = {
        "channel": "team/prod", "generation": 1, "artifact_id": artifact, "arm": "live", "minute": AT,
        "requests": 10, "failed": 1, "truncated": 2, "prompt_tokens": 2**40, "completion_tokens": 50,
        "latencies_ms": [10.5, 20.25], "first_token_ms": [1.5],
    }  # fmt: skip
    return Outcome(**{**known, **changes})


@only("local")
def test_rows_are_added_read_and_summed(registry: Registry, publish: Callable[..., Artifact]) -> None:
    one, two = publish(registry, "one").id, publish(registry, "two").id
    later = AT + timedelta(minutes=5)
    rows = [
        outcome(one),
        outcome(two, arm="canary", failed=0, latencies_ms=[], checked=9, not_json=4, rated=30, disliked=2),
        outcome(two, arm="shadow", compared=4, agreed=3, minute=later),
        outcome(one, minute=later, latencies_ms=[float(n) for n in range(1, 257)]),
        outcome(one, channel="team/other"),
    ]
    registry.outcomes.add(rows)
    registry.outcomes.add([])
    assert registry.outcomes.read("team/prod") == [rows[0], rows[1], rows[2], rows[3]]
    assert registry.outcomes.read("team/prod", later + timedelta(seconds=59)) == [rows[2], rows[3]]
    assert registry.outcomes.read("team/prod", artifact=two) == [rows[1], rows[2]]
    assert registry.outcomes.read("team/none") == []
    first, canary, shadow = registry.outcomes.summary("team/prod")
    assert (first.artifact_id, first.arm, first.requests, first.failed) == (one, "live", 20, 2)
    assert (first.first, first.last) == (AT, later + timedelta(minutes=1))
    assert (first.prompt_tokens, first.durations, first.p50_ms, first.p95_ms) == (2**41, 258, 127.0, 244.0)
    assert (canary.arm, canary.durations, canary.p50_ms, canary.first_token_p95_ms) == (
        "canary",
        0,
        None,
        1.5,
    )
    assert (shadow.compared, shadow.agreed) == (4, 3)
    assert [one.requests for one in registry.outcomes.summary("team/prod", later)] == [10, 10]


@only("local")
def test_old_rows_can_be_forgotten_and_none_changed(
    registry: Registry, publish: Callable[..., Artifact]
) -> None:
    made = publish(registry, "one").id
    registry.outcomes.add([outcome(made, minute=AT + timedelta(minutes=n)) for n in range(4)])
    registry.outcomes.add([outcome(made, channel="team/other")])
    refused(registry, "UPDATE outcomes SET failed = 0", "an outcome is not changed")
    assert registry.outcomes.prune(AT + timedelta(minutes=2), "team/prod") == 2
    assert [row.minute.minute for row in registry.outcomes.read("team/prod")] == [32, 33]
    assert registry.outcomes.prune(AT + timedelta(minutes=3)) == 1
    assert len(registry.outcomes.read("team/other")) == 1, "the newest of all stays"


@only("local")
def test_who_reads_on_misses_nothing_when_all_was_forgotten(
    registry: Registry, publish: Callable[..., Artifact]
) -> None:
    made = publish(registry, "one").id
    registry.outcomes.add([outcome(made) for _ in range(3)])
    last = registry.outcomes.added("team/prod", 1)[-1][0]
    for _ in range(2):
        registry.outcomes.prune(AT + timedelta(days=1))
        registry.outcomes.add([outcome(made, requests=7, minute=AT + timedelta(minutes=1))])
        ((last, row),) = registry.outcomes.added("team/prod", 1, last)
        assert row.requests == 7


@only("local")
def test_all_rows_or_none(registry: Registry, publish: Callable[..., Artifact]) -> None:
    made = publish(registry, "one").id
    for bad in (outcome("f" * 64), outcome(made, channel="prod"), outcome(made, channel="a/\udcff")):
        with pytest.raises(InvalidArtifact):
            registry.outcomes.add([outcome(made), bad])
    assert registry.outcomes.read("team/prod") == []


@pytest.mark.parametrize(
    "change",
    [
        {"requests": -1}, {"failed": 11}, {"truncated": 11}, {"agreed": 1}, {"compared": 2, "agreed": 3},
        {"checked": 11}, {"not_json": 1}, {"checked": 2, "not_json": 3}, {"rated": 2, "disliked": 3},
        {"arm": "test"}, {"generation": 0}, {"artifact_id": "abc"}, {"latencies_ms": [1.0] * 257},
        {"latencies_ms": [-1.0]}, {"first_token_ms": [float("nan")]}, {"first_token_ms": [float("inf")]},
        {"minute": datetime(2026, 11, 22)}, {"minute": "yesterday"}, {"prompt_tokens": 2**63},
        {"prompt": "What is"}, {"requests": 1.5},
    ],
)  # fmt: skip
def test_what_is_no_outcome(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        outcome(**change)


def test_a_minute_is_whole_and_in_utc() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    for said in (
        datetime(2026, 11, 22, 12, 0, 59, 5, there),
        "2026-11-22T06:30Z",
        "2026-11-22T06:30:12+00:00",
    ):
        assert outcome(minute=said).minute == AT


@given(values=st.lists(st.integers(0, 50), min_size=1, max_size=200), share=st.floats(0, 1))
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(values: list[int], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    smaller = [value for value in values if value < found]
    assert not smaller or len(smaller) < share * len(values)


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 0.5) is None
