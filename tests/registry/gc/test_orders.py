"""Any order of publishing, moving, naming and collecting."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from registry import Registry
from registry.db.tables import content_events
from registry.errors import Collected, NotFound
from registry.gc import reachability
from registry.gc.reachability import RetentionPolicy
from tests.registry.gc.collecting import blobs, ids, move, sweep
from tests.reliability.gc import lost


class Collecting(RuleBasedStateMachine):
    """Any order of publishing, promoting, rolling back, naming and collecting, in one process."""

    made = Bundle("made")

    @initialize()
    def begin(self) -> None:
        self.folder = self.tmp_path_factory.mktemp("collecting")
        self.registry = Registry.open(self.folder)
        self.content: dict[str, set[str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.close()

    @rule(
        target=made, family=st.integers(0, 4), attempt=st.integers(0, 1), parents=st.lists(made, max_size=2)
    )
    def publish(self, family: int, attempt: int, parents: list[str]) -> str:
        from tests.reliability.gc import publish

        known = [self.registry.get(parent) for parent in parents]
        gone = set(parents) & self.gone()
        try:
            artifact = publish(self.registry, family, attempt, known)
        except Collected:
            assert gone
            return parents[0]
        assert not gone
        self.content[artifact.id] = {entry.sha256 for entry in artifact.manifest.files.values()}
        return artifact.id

    @rule(one=made, channel=st.sampled_from(["a/one", "a/two"]))
    def promote(self, one: str, channel: str) -> None:
        gone = one in self.gone()
        try:
            move(self.registry, channel, self.registry.get(one))
            assert not gone
        except Collected:
            assert gone

    @rule(channel=st.sampled_from(["a/one", "a/two"]))
    def rollback(self, channel: str) -> None:
        gone = self.gone()
        with suppress(NotFound, Collected):
            assert self.registry.channels.rollback(channel, "r", "w").artifact_id not in gone

    @rule(one=made)
    def name(self, one: str) -> None:
        if one not in self.gone():
            self.registry.name(one, "name")

    @rule(history=st.integers(1, 3))
    def collect(self, history: int) -> None:
        keeping, before = RetentionPolicy(days=0, history=history), set(self.content) - self.gone()
        told = self.registry.collect(keeping)
        assert set(self.content) - self.gone() == before
        done = sweep(self.registry, keeping)
        assert done == told.model_copy(update={"deleted": True})
        after = set(self.content) - self.gone()
        assert before - after == set(ids(done))
        with self.registry.database.read() as connection:
            needed = reachability.reach(connection, keeping, datetime.now(UTC))
        assert after == {one for one in before if needed.keeps(one)}
        assert blobs(self.registry) == set().union(*(self.content[one] for one in after))

    @invariant()
    def nothing_in_use_is_lost(self) -> None:
        if hasattr(self, "registry"):
            assert lost(self.registry, history=1) == []

    def gone(self) -> set[str]:
        with self.registry.database.read() as connection:
            rows = connection.execute(select(content_events).order_by(content_events.c.sequence))
            latest = {row.artifact_id: row.action for row in rows}
        return {one for one, action in latest.items() if action == "collected"}


def test_any_order_of_steps(tmp_path_factory: pytest.TempPathFactory) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    Collecting.tmp_path_factory = tmp_path_factory
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Collecting,
        settings=settings(
            max_examples=15, stateful_step_count=20, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
