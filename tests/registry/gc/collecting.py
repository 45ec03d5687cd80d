"""What the tests of collections share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from registry import Artifact, Registry, Waiver
from registry.artifacts import Parentage
from registry.gc.reachability import RetentionPolicy
from registry.gc.report import GcReport

Publish = Callable[..., Artifact]


Key = Callable[[str], str]


NOTHING_OLD = RetentionPolicy(days=0, history=2)


def sweep(registry: Registry, keeping: RetentionPolicy = NOTHING_OLD, **options: Any) -> GcReport:
    return registry.collect(keeping, delete=True, **options)


def ids(freed: GcReport) -> list[str]:
    return [one.id for one in freed.artifacts]


def blobs(registry: Registry) -> set[str]:
    return {blob.sha256 for blob in registry.store.stored()}


def move(registry: Registry, channel: str, artifact: Artifact) -> None:
    current = registry.channels.get(channel)
    generation = current.generation if current else 0
    registry.channels.move(channel, artifact.id, generation, waiver=Waiver("test", "test"))


def below(parent: Artifact) -> dict[str, Any]:
    return {"parents": (Parentage(relation="finetune", id=parent.id),)}
