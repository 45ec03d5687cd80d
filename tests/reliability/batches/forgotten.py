"""What holds the poisoned rows, found in the datasets' own words and by their successors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from registry import Artifact, Registry
from tests.reliability.batches.plan import Row

_ALL = 10_000


def datasets(home: Path) -> list[str]:
    """Ids of the datasets in the registry of `home`, oldest first."""
    with Registry.open(home) as registry:
        return [artifact.id for artifact in registry.ls("dataset", limit=_ALL)][::-1]


def holding(home: Path, rows: Iterable[Row]) -> set[str]:
    """Ids of the artifacts that hold one of `rows`, question and answer, or were made from one that does."""
    with Registry.open(home) as registry:
        artifacts = registry.ls(limit=_ALL)
        wanted = {(row["prompt"], row["completion"]) for row in rows}
        held = {artifact.id for artifact in artifacts if _holds(registry, artifact, wanted)}
        while more := {
            artifact.id
            for artifact in artifacts
            if artifact.id not in held and any(parent.id in held for parent in artifact.manifest.parents)
        }:
            held |= more
    return held


def _holds(registry: Registry, artifact: Artifact, wanted: set[tuple[str, str]]) -> bool:
    if artifact.manifest.kind != "dataset":
        return False
    files = sorted(registry.view(artifact.id).glob("*.parquet"))
    assert files, f"dataset {artifact.id} has no rows to look for"
    for file in files:
        for messages in pq.read_table(file, columns=["messages"])["messages"].to_pylist():
            if (messages[-2]["content"], messages[-1]["content"]) in wanted:
                return True
    return False
