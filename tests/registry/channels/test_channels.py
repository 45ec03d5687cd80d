from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import Artifact, Registry, Waiver
from registry.db import triggers
from registry.errors import Conflict, Corrupt, GateRequired, InvalidArtifact, NotFound
from tests.registry.backends import Backends, only

pytestmark = only("local")  # rows only: where the files are makes no difference

Publish = Callable[..., Artifact]
BY_HAND = Waiver(reason="the first one", who="ada")


@pytest.fixture
def ids(registry: Registry, publish: Publish) -> list[str]:
    return [publish(registry, str(number)).id for number in range(4)]


def test_a_channel_moves_through_gates(registry: Registry, ids: list[str]) -> None:
    channels, gates = registry.channels, registry.gates
    assert channels.get("team/prod") is None
    first = gates.record(ids[1], ids[0], {}, "pass", {})
    assert channels.move("team/prod", ids[1], 0, decision_id=first).generation == 1
    second = gates.record(ids[2], ids[1], {}, "pass", {})
    moved = channels.move("team/prod", ids[2], 1, decision_id=second)
    assert moved == channels.get("team/prod")
    assert (moved.artifact_id, moved.generation) == (ids[2], 2)
    assert [(e.action, e.artifact_id, e.decision_id) for e in channels.history("team/prod")] == [
        ("move", ids[1], first),
        ("move", ids[2], second),
    ]
    assert channels.ls() == [moved]


def test_a_move_without_the_right_decision_is_refused(registry: Registry, ids: list[str]) -> None:
    channels, gates = registry.channels, registry.gates
    channels.move("team/prod", ids[0], 0, waiver=BY_HAND)
    other_candidate = gates.record(ids[2], ids[0], {}, "pass", {})
    other_baseline = gates.record(ids[1], ids[3], {}, "pass", {})
    no_baseline = gates.record(ids[1], None, {}, "pass", {})
    refused = [gates.record(ids[1], ids[0], {}, v, {}) for v in ("fail", "insufficient", "invalid")]  # type: ignore[arg-type]
    for decision in (None, other_candidate, other_baseline, no_baseline, *refused):
        with pytest.raises(GateRequired, match="channel team/prod cannot move"):
            channels.move("team/prod", ids[1], 1, decision_id=decision)
    with pytest.raises(NotFound, match="no gate decision"):
        channels.move("team/prod", ids[1], 1, decision_id="f" * 64)
    with pytest.raises(GateRequired):
        channels.move("team/new", ids[0], 0)
    assert [event.generation for event in channels.history("team/prod")] == [1]
    assert channels.get("team/new") is None


@pytest.mark.parametrize("expected", [0, 2, -1])
def test_a_stale_generation_loses(registry: Registry, ids: list[str], expected: int) -> None:
    registry.channels.move("team/prod", ids[0], 0, waiver=BY_HAND)
    with pytest.raises(Conflict, match=f"expected generation {expected}, found generation 1"):
        registry.channels.move("team/prod", ids[1], expected, waiver=BY_HAND)
    with pytest.raises(Conflict, match="found no such channel"):
        registry.channels.move("team/other", ids[1], 3, waiver=BY_HAND)


def test_a_waiver_needs_a_reason_and_a_name(registry: Registry, ids: list[str]) -> None:
    for waiver in (Waiver("", "ada"), Waiver("because", " ")):
        with pytest.raises(InvalidArtifact, match="needs a reason and the name"):
            registry.channels.move("team/prod", ids[0], 0, waiver=waiver)
    registry.channels.move("team/prod", ids[0], 0, waiver=BY_HAND)
    with pytest.raises(InvalidArtifact):
        registry.channels.rollback("team/prod", "", "ada")
    for bad in ("half \ud83d of it", "\udcff", "nothing\0"):
        for waiver in (Waiver(bad, "ada"), Waiver("because", bad)):
            with pytest.raises(InvalidArtifact, match=r"holds '.*', which is not allowed in a text"):
                registry.channels.move("team/prod", ids[1], 1, waiver=waiver)
            with pytest.raises(InvalidArtifact, match="not allowed in a text"):
                registry.channels.rollback("team/prod", waiver.reason, waiver.who)
            with pytest.raises(InvalidArtifact, match="not allowed in a text"):
                registry.channels.set_policy("team/prod", {}, waiver.who, waiver.reason)
    with pytest.raises(InvalidArtifact, match="half a character"):
        registry.channels.get("team/\udcff")
    assert registry.channels.policies("team/prod") == []
    (event,) = registry.channels.history("team/prod")
    assert (event.reason, event.who, event.decision_id) == ("the first one", "ada", None)


@pytest.mark.parametrize(
    "name", ["prod", "a/b/c", "../x", "Team/prod", "/prod", "team/", "team/prod\n", "x" * 65 + "/y"]
)
def test_channel_names_are_team_and_name(registry: Registry, ids: list[str], name: str) -> None:
    with pytest.raises(InvalidArtifact, match="is not a valid channel name"):
        registry.channels.move(name, ids[0], 0, waiver=BY_HAND)


def test_an_unknown_artifact_is_refused(registry: Registry) -> None:
    with pytest.raises(NotFound):
        registry.channels.move("team/prod", "f" * 64, 0, waiver=BY_HAND)


def test_rolling_back_goes_further_back_each_time(registry: Registry, ids: list[str]) -> None:
    channels = registry.channels
    for generation, artifact in enumerate(ids[:3]):
        channels.move("team/prod", artifact, generation, waiver=BY_HAND)
    assert channels.rollback("team/prod", "worse", "ada").artifact_id == ids[1]
    assert channels.rollback("team/prod", "still bad", "ada").artifact_id == ids[0]
    with pytest.raises(NotFound, match="pointed to no other artifact before"):
        channels.rollback("team/prod", "again", "ada")
    channels.move("team/prod", ids[3], 5, waiver=BY_HAND)
    back = channels.rollback("team/prod", "no", "ada")
    assert (back.artifact_id, back.generation) == (ids[0], 7)
    last = channels.history("team/prod")[-1]
    assert (last.action, last.reason, last.who, last.restores) == ("rollback", "no", "ada", 1)
    with pytest.raises(NotFound, match="does not exist"):
        channels.rollback("team/none", "x", "ada")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(0, 3) | st.none(), max_size=12))
def test_rollback_is_undo(steps: list[int | None], new_backend: Backends, publish: Publish) -> None:
    with new_backend().open() as registry:
        ids = [publish(registry, str(number)).id for number in range(4)]
        undo: list[int] = []
        generation = 0
        for step in steps:
            if step is not None:
                registry.channels.move("a/b", ids[step], generation, waiver=BY_HAND)
                undo.append(step)
                generation += 1
                continue
            while len(undo) > 1 and undo[-1] == undo[-2]:
                undo.pop()
            if len(undo) < 2:
                with pytest.raises(NotFound):
                    registry.channels.rollback("a/b", "r", "w")
                continue
            undo.pop()
            assert registry.channels.rollback("a/b", "r", "w").artifact_id == ids[undo[-1]]
            generation += 1
        assert len(registry.channels.history("a/b")) == generation


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE channel_events SET reason = 'nicer' WHERE generation = 2",
        "UPDATE channel_events SET at = '2020' WHERE generation = 1",
        f"UPDATE channel_events SET digest = '{'1' * 64}' WHERE generation = 3",
        "DELETE FROM channel_events WHERE generation = 1",
        "DELETE FROM channel_events WHERE generation = 2",
        "DELETE FROM channel_events WHERE generation = 3",
        "DELETE FROM channel_events",
    ],
)
def test_a_changed_history_shows(registry: Registry, ids: list[str], statement: str) -> None:
    for generation, artifact in enumerate(ids[:3]):
        registry.channels.move("team/prod", artifact, generation, waiver=BY_HAND)
    registry.channels.history("team/prod")
    with registry.database.write() as connection:
        triggers.drop(connection)
        connection.exec_driver_sql(statement)
    with pytest.raises(Corrupt, match="history of channel team/prod"):
        registry.channels.history("team/prod")


def test_the_first_decision_gives_a_channel_its_policy(registry: Registry, ids: list[str]) -> None:
    channels, gates = registry.channels, registry.gates
    assert channels.policy("team/prod") is None
    strict, easy = {"margin": 0.01}, {"margin": 0.5}
    first = gates.record(ids[1], ids[0], strict, "pass", {})
    channels.move("team/prod", ids[1], 0, decision_id=first)
    taken = channels.policy("team/prod")
    assert taken is not None
    assert (taken.policy, taken.digest) == (strict, gates.get(first).policy_digest)
    other = gates.record(ids[2], ids[1], easy, "pass", {})
    with pytest.raises(GateRequired, match=r"was made under the policy .*, but the channel's is"):
        channels.move("team/prod", ids[2], 1, decision_id=other)
    channels.set_policy("team/prod", easy, "ada", "less is enough")
    channels.set_policy("team/prod", dict(easy), "bob", "the same again")
    assert [(p.policy, p.who) for p in channels.policies("team/prod")][1:] == [(easy, "ada")]
    assert channels.move("team/prod", ids[2], 1, decision_id=other).generation == 2


def test_a_waiver_gives_no_policy(registry: Registry, ids: list[str]) -> None:
    registry.channels.move("team/prod", ids[0], 0, waiver=BY_HAND)
    assert registry.channels.policy("team/prod") is None


def test_policies_need_a_channel_a_reason_a_name_and_json(registry: Registry) -> None:
    for name, policy, who, reason in (
        ("prod", {}, "ada", "why"),
        ("team/prod", {}, " ", "why"),
        ("team/prod", {}, "ada", ""),
        ("team/prod", {"margin": float("nan")}, "ada", "why"),
    ):
        with pytest.raises(InvalidArtifact):
            registry.channels.set_policy(name, policy, who, reason)
    assert registry.channels.policies("team/prod") == []


def test_a_changed_policy_lets_nothing_move(registry: Registry, ids: list[str]) -> None:
    registry.channels.set_policy("team/prod", {"margin": 0.01}, "ada", "why")
    decision = registry.gates.record(ids[0], None, {"margin": 0.5}, "pass", {})
    with registry.database.write() as connection:
        triggers.drop(connection)
        connection.exec_driver_sql("UPDATE channel_policies SET policy = '{\"margin\":0.5}'")
    with pytest.raises(Corrupt, match="was changed after it was set"):
        registry.channels.move("team/prod", ids[0], 0, decision_id=decision)
