"""What a collection keeps, and why."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from registry import Artifact, Registry, Waiver
from registry.artifacts import Parentage
from registry.db.tables import leases
from registry.errors import Collected
from registry.gc import reachability
from registry.gc.reachability import RetentionPolicy
from registry.processes import ProcessId
from tests.registry.backends import only
from tests.registry.gc.collecting import NOTHING_OLD, Key, Publish, below, ids, move, sweep
from tests.reliability.gc import lost


@only("sqlite", "local")
class TestRoots:
    def test_recent_artifacts_and_what_they_came_from(
        self, registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = publish(registry, "old")
        unused = publish(registry, "unused")
        with registry.database.read() as connection:
            soon = datetime.now(UTC) + timedelta(days=13)
            assert reachability.reach(connection, RetentionPolicy(days=14), soon).keeps(unused.id)
            late = datetime.now(UTC) + timedelta(days=15)
            assert not reachability.reach(connection, RetentionPolicy(days=14), late).keeps(unused.id)
        later = (datetime.now(UTC) + timedelta(days=15)).isoformat(timespec="microseconds")
        monkeypatch.setattr("registry.catalog.now", lambda: later)
        publish(registry, "young", **below(old))
        with registry.database.read() as connection:
            found = reachability.reach(connection, RetentionPolicy(days=14), late)
        assert found.keeps(old.id)
        assert not found.keeps(unused.id)

    def test_a_result_made_again_lately_is_recent(
        self, registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = publish(registry, "first", {"a": b"same"})
        later = datetime.now(UTC) + timedelta(days=20)
        monkeypatch.setattr("registry.catalog.now", lambda: later.isoformat(timespec="microseconds"))
        assert publish(registry, "second", {"a": b"same"}) == made
        with registry.database.read() as connection:
            assert reachability.reach(connection, RetentionPolicy(days=14), later + timedelta(days=1)).keeps(
                made.id
            )

    def test_channels_their_history_and_rollbacks(self, registry: Registry, publish: Publish) -> None:
        made = [publish(registry, str(n)) for n in range(6)]
        for artifact in made:
            move(registry, "team/prod", artifact)
        reasons = registry.why_kept(made[5].id, NOTHING_OLD)
        assert reasons[0] == "channel team/prod points to it"
        assert ids(sweep(registry)) == [a.id for a in made[:3]]
        for back in (made[4], made[3]):
            assert registry.channels.rollback("team/prod", "r", "w").artifact_id == back.id
        with pytest.raises(Collected, match=made[2].id[:12]):
            registry.channels.rollback("team/prod", "r", "w")
        assert lost(registry) == []

    def test_after_rollbacks_the_next_ones_still_work(self, registry: Registry, publish: Publish) -> None:
        made = [publish(registry, str(n)) for n in range(8)]
        for artifact in made:
            move(registry, "team/prod", artifact)
        for _ in range(4):
            registry.channels.rollback("team/prod", "r", "w")
        # The last two events are rollbacks to 4 and 3; the next two would go to 2 and 1.
        assert set(ids(sweep(registry))) == {made[n].id for n in (0, 5, 6, 7)}
        for n in (2, 1):
            assert registry.channels.rollback("team/prod", "r", "w").artifact_id == made[n].id

    def test_endpoints_until_they_are_stopped(self, registry: Registry, publish: Publish) -> None:
        made = publish(registry, "one")
        row = registry.endpoints.add(
            artifact_id=made.id, engine="llama.cpp", url="u", process=ProcessId(1, 1.0), log="log"
        )
        assert ids(sweep(registry)) == []
        assert f"tuneline endpoints stop {row.id}" in registry.why_kept(made.id, NOTHING_OLD)[0]
        registry.endpoints.mark_stopped(row.id)
        assert ids(sweep(registry)) == [made.id]

    def test_what_a_stage_reads_while_its_lease_lives(
        self, registry: Registry, publish: Publish, key: Key
    ) -> None:
        made = publish(registry, "one")
        with registry.draft(key("work"), "train", holds=[made.id]):
            assert ids(sweep(registry)) == []
            assert registry.why_kept(made.id, NOTHING_OLD)[0].startswith("stage train reads it (pid ")
            with registry.database.write() as connection:
                connection.execute(update(leases), {"expires": 0.0})
            assert ids(registry.collect(NOTHING_OLD)) == [made.id]
        assert ids(sweep(registry)) == [made.id]

    def test_names_and_the_chain_of_reasons(self, registry: Registry, publish: Publish) -> None:
        base = publish(registry, "base")
        adapter = publish(registry, "adapter", **below(base))
        merged = publish(registry, "merged", **below(adapter))
        registry.name(merged.id, "support")
        assert ids(sweep(registry)) == []
        assert registry.why_kept(merged.id, NOTHING_OLD) == ["it is called support@1"]
        (why,) = registry.why_kept(base.id, NOTHING_OLD)
        assert why == (
            f"{adapter.id[:12]} was made from it (finetune), from that {merged.id[:12]} (finetune); "
            "it is called support@1"
        )

    def test_the_evidence_of_decisions_that_count(self, registry: Registry, publish: Publish) -> None:
        def measured(model: Artifact, text: str) -> Artifact:
            relation = (Parentage(relation="evaluation_of", id=model.id),)
            return publish(registry, f"evaluation {text}", kind="evaluation", parents=relation)

        base, model = publish(registry, "base"), publish(registry, "model")
        other = publish(registry, "other")
        good, of_base, named = measured(model, "model"), measured(base, "base"), measured(other, "other")
        unrelated = measured(other, "unrelated")
        registry.channels.move("team/prod", model.id, 0, waiver=Waiver("first", "w"))
        with registry.database.write() as connection:  # as if a gate had decided on this move
            _decide(connection, "team/prod", model.id, base.id, {"parent": named.id})
        assert set(ids(sweep(registry))) == {base.id, other.id, unrelated.id}
        for evaluation in (good, of_base, named):
            assert (
                "rests on it (channel team/prod, generation 1)"
                in registry.why_kept(evaluation.id, NOTHING_OLD)[0]
            )
            assert registry.verify(evaluation.id) == []

    def test_a_calibration_dataset_stays_with_its_model(
        self, registry: Registry, publish: Publish, base: Any
    ) -> None:
        from registry.artifacts import QuantSpec

        dataset = publish(registry, "dataset")
        quant = QuantSpec(method="gptq", calibration_dataset=dataset.id)
        model = publish(registry, "model", kind="quantized", base=base, quant=quant)
        registry.name(model.id, "model")
        assert ids(sweep(registry)) == []


def _decide(connection: Any, channel: str, candidate: str, baseline: str, evidence: dict[str, str]) -> None:
    """A decision and a second event of the channel that rests on it, past everything that would forbid it."""
    from registry.db.tables import channel_events, channels, gate_decisions

    row = {"id": "d" * 64, "candidate": candidate, "baseline": baseline, "policy": "{}", "verdict": "pass"}
    connection.execute(
        gate_decisions.insert(), {**row, "evidence": json.dumps(evidence), "created": "2026-01-01"}
    )
    connection.exec_driver_sql("DROP TRIGGER channel_events_no_update")
    connection.execute(update(channel_events), {"decision_id": "d" * 64})
    assert connection.execute(select(channels.c.name)).scalar_one() == channel
