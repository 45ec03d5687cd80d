"""What a collection freed, or would free."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from registry.artifacts import Kind, Record
from registry.store.local import StoredBlob


class Part(Record):
    """Some of what is freed: how many and how many bytes."""

    count: int = 0
    bytes: int = 0


class Collectable(Record):
    """An artifact that loses its files."""

    id: str
    kind: Kind
    stage: str
    created: datetime
    bytes: int


class GcReport(Record):
    """What was freed, or would be. An artifact's blobs count only where no other artifact needs them."""

    deleted: bool
    artifacts: list[Collectable]
    blobs: Part
    leftovers: Part
    """Blobs that belong to no artifact: left by publications that crashed."""
    drafts: Part
    views: int
    cached: Part
    kept: int
    """Artifacts that keep their files."""

    @property
    def bytes(self) -> int:
        """All that is freed."""
        return self.blobs.bytes + self.leftovers.bytes + self.drafts.bytes + self.cached.bytes


def part(blobs: Iterable[StoredBlob]) -> Part:
    """These blobs, counted."""
    sizes = [blob.size for blob in blobs]
    return Part(count=len(sizes), bytes=sum(sizes))
