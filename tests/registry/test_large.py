"""The registry that bars and backups are measured on is one: everything in it verifies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from registry import Registry
from tests.registry.large import CHAIN, large_registry


def test_a_large_registry_is_whole(home: Path) -> None:
    made = large_registry(home, 300, channels=6)
    with Registry.open(home) as registry:
        listed = registry.ls(limit=1000)
        assert [artifact.id for artifact in reversed(listed)] == made.ids
        assert len(made.ids) == 300
        assert len(Counter(artifact.manifest.kind for artifact in listed)) == 6
        assert not [problem for artifact in listed for problem in registry.verify(artifact.id)]
        assert len({edge.parent for edge in registry.lineage(made.deepest)} | {made.deepest}) == CHAIN
        for channel in registry.channels.ls():
            assert registry.channels.history(channel.name)
            registry.rollouts.history(channel.name)
        decisions = [decision for artifact in listed for decision in registry.gates.about(artifact.id)]
        assert {decision.verdict for decision in decisions} == {"pass", "fail", "insufficient"}
        assert {registry.gates.problem(decision) for decision in decisions} == {None}
        assert len(registry.tenants.audit()) == 6
        assert len(registry.endpoints.ls()) == 3
