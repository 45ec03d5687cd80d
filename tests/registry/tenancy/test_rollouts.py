"""Rollouts: what a channel tries out, until when, and what keeps the candidate's files."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry import Artifact, Registry, Waiver
from registry.artifacts import BaseReference, QuantSpec
from registry.db import triggers
from registry.errors import CanaryUnderWay, Collected, Corrupt, InvalidArtifact, NotFound
from registry.gc import collect as gc
from registry.gc.reachability import RetentionPolicy
from registry.tenancy.rollouts import RolloutEvent
from tests.registry.backends import Backend, only
from tests.registry.db.test_database import refused
from tests.seconds import seconds

pytestmark = only("local")

Model = Callable[[Registry, str], Artifact]
BY_HAND = Waiver(reason="by hand", who="ada")


@pytest.fixture
def model(publish: Callable[..., Artifact], base: BaseReference, plain: QuantSpec) -> Model:
    return lambda registry, text: publish(registry, text, kind="base", base=base, quant=plain)


@pytest.fixture
def live(registry: Registry, model: Model) -> Artifact:
    """What team/prod points to."""
    made = model(registry, "live")
    registry.channels.move("team/prod", made.id, 0, waiver=BY_HAND)
    return made


def start(registry: Registry, candidate: Artifact, canary: float = 5, shadow: float = 0, **more: Any) -> Any:
    words = {"who": "ada", "reason": "see how it does", **more}
    return registry.rollouts.start("team/prod", candidate.id, canary, shadow, **words)


def test_a_rollout_is_in_force_until_the_channel_moves(
    registry: Registry, live: Artifact, model: Model
) -> None:
    one, two = model(registry, "one"), model(registry, "two")
    assert registry.rollouts.current("team/prod") is None
    assert registry.rollouts.history("team/prod") == []
    version = registry.serving_version()
    made = start(registry, one, 5, 12.5)
    assert (made.channel, made.generation, made.candidate) == ("team/prod", 1, one.id)
    assert (made.canary_percent, made.shadow_percent, made.who) == (5.0, 12.5, "ada")
    assert registry.rollouts.current("team/prod") == made
    assert registry.serving_state().rollouts == {"team/prod": made}
    assert registry.serving_version() > version
    registry.rollouts.stop("team/prod", "ada", "the other one now")
    newer = start(registry, two, 0, 100)
    assert registry.rollouts.current("team/prod") == newer
    registry.channels.move("team/prod", one.id, 1, waiver=BY_HAND)
    assert registry.rollouts.current("team/prod") is None
    assert registry.serving_state().rollouts == {}
    registry.channels.rollback("team/prod", "back", "ada")
    assert registry.rollouts.current("team/prod") is None, "the same artifact, but another generation"
    last = start(registry, two)
    assert (last.generation, last.sequence > newer.sequence) == (3, True)


def test_a_rollout_stops(registry: Registry, live: Artifact, model: Model) -> None:
    with pytest.raises(NotFound, match="has no rollout in progress"):
        registry.rollouts.stop("team/prod", "ada", "enough")
    candidate = model(registry, "one")
    start(registry, candidate)
    version = registry.serving_version()
    registry.rollouts.stop("team/prod", "bob", "too many failures")
    assert registry.serving_version() > version
    assert registry.rollouts.current("team/prod") is None
    with pytest.raises(NotFound, match="has no rollout in progress"):
        registry.rollouts.stop("team/prod", "bob", "again")
    history = registry.rollouts.history("team/prod")
    assert [(e.action, e.candidate, e.canary_percent, e.who, e.reason) for e in history] == [
        ("start", candidate.id, 5.0, "ada", "see how it does"),
        ("stop", candidate.id, 0.0, "bob", "too many failures"),
    ]
    assert all(isinstance(event, RolloutEvent) for event in history)


def test_a_canary_is_not_replaced_by_another_one(registry: Registry, live: Artifact, model: Model) -> None:
    one, two = model(registry, "one"), model(registry, "two")
    start(registry, two, 0, 10)
    start(registry, one)
    for shares in ((5, 0), (0, 5)):
        with pytest.raises(CanaryUnderWay, match=rf"a canary of {one.id[:12]} under way.* --stop --reason"):
            start(registry, two, *shares)
    assert start(registry, one, 20).canary_percent == 20, "the same candidate's share is changed by hand"
    with pytest.raises(CanaryUnderWay):
        start(registry, one, 30, anew=True)
    assert registry.rollouts.current("team/prod").canary_percent == 20  # type: ignore[union-attr]


def test_of_canaries_that_start_at_once_one_starts(
    backend: Backend, registry: Registry, live: Artifact, model: Model
) -> None:
    candidates = [model(registry, f"candidate {number}") for number in range(6)]
    together = threading.Barrier(len(candidates))

    def begin(candidate: Artifact) -> str:
        with backend.open() as own:
            together.wait(seconds(30))
            try:
                return str(start(own, candidate).candidate)
            except CanaryUnderWay as error:
                return error.candidate

    with ThreadPoolExecutor(len(candidates)) as pool:
        (winner,) = set(pool.map(begin, candidates))
    assert [event.candidate for event in registry.rollouts.history("team/prod")] == [winner]


def test_what_cannot_be_tried_out(
    registry: Registry, live: Artifact, model: Model, publish: Callable[..., Artifact]
) -> None:
    candidate = model(registry, "one")
    with pytest.raises(InvalidArtifact, match=r"points to .* already"):
        start(registry, live)
    with pytest.raises(InvalidArtifact, match="is a dataset; only models can be rolled out"):
        start(registry, publish(registry, "data"))
    for share in (-0.1, 100.1, math.nan, math.inf, True):
        for shares in ((share, 0.0), (0.0, share)):
            with pytest.raises(InvalidArtifact, match="expected a number from 0 to 100"):
                start(registry, candidate, *shares)
    with pytest.raises(InvalidArtifact, match="0 % sends no traffic"):
        start(registry, candidate, 0, 0)
    for words in ({"who": " "}, {"reason": ""}, {"reason": "a\0b"}, {"who": "\udcff"}):
        with pytest.raises(InvalidArtifact, match=r"is empty|not allowed in a text"):
            start(registry, candidate, **words)
    with pytest.raises(NotFound, match="points to no artifact yet"):
        registry.rollouts.start("team/new", candidate.id, 5, 0, "ada", "why")
    with pytest.raises(NotFound, match="no artifact"):
        registry.rollouts.start("team/prod", "f" * 64, 5, 0, "ada", "why")
    assert registry.rollouts.history("team/prod") == []


def test_the_candidates_files_stay_while_it_is_tried_out(
    registry: Registry, live: Artifact, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "UNDER_WAY_SECONDS", 0.0)
    candidate, other = model(registry, "one"), model(registry, "two")
    start(registry, candidate)
    nothing_old = RetentionPolicy(days=0, history=1)
    assert [one.id for one in registry.collect(nothing_old, delete=True).artifacts] == [other.id]
    assert registry.verify(candidate.id) == []
    assert "channel team/prod has it in a rollout" in registry.why_kept(candidate.id, nothing_old)[0]
    with pytest.raises(Collected):
        start(registry, other)
    registry.rollouts.stop("team/prod", "ada", "done")
    assert [one.id for one in registry.collect(nothing_old, delete=True).artifacts] == [candidate.id]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rollout_events SET canary_percent = 100 WHERE number = 1",
        "UPDATE rollout_events SET reason = 'nicer' WHERE number = 2",
        "DELETE FROM rollout_events WHERE number = 1",
        "DELETE FROM rollout_events WHERE number = 3",
        "DELETE FROM rollout_events",
        "UPDATE rollouts SET number = 2",
    ],
)
def test_a_changed_history_shows(registry: Registry, live: Artifact, model: Model, statement: str) -> None:
    for text in ("one", "two"):
        start(registry, model(registry, text), 0, 5)
    registry.rollouts.stop("team/prod", "ada", "enough")
    for direct, match in (
        (statement, "immutable|from event to event"),
        ("DELETE FROM rollouts", "never deleted"),
    ):
        refused(registry, direct, match)
    assert len(registry.rollouts.history("team/prod")) == 3
    with registry.database.write() as connection:
        triggers.drop(connection)
        connection.exec_driver_sql(statement)
    with pytest.raises(Corrupt, match="rollouts of channel team/prod"):
        registry.rollouts.history("team/prod")
