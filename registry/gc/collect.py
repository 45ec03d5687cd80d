"""Collecting what nothing needs: files go, records stay.

An artifact keeps its files while `registry.gc.reachability` says so. Others lose them in two steps. First, in
one transaction, they are marked as collected: from then on nobody builds on them, and a memo key that stood
for one stands for nothing. Then blobs that no artifact with content needs are deleted, a batch at a time:
after another look at what was published meanwhile they are marked, deleted, and unmarked
(`registry.deletions`). A publication looks whether all its blobs are there and none is marked. A crash
between any two steps leaves blobs to the next collection.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, func, select

from registry import content, deletions
from registry.artifacts import Kind, Record
from registry.db.engine import Database
from registry.db.tables import artifacts, content_events, endpoints, leases
from registry.errors import StoreFailed
from registry.gc.reachability import Reach, RetentionPolicy, reach
from registry.leases import is_held
from registry.registry import Registry
from registry.store.files import remove_tree, walk, wrap_os_errors
from registry.store.local import StoredBlob
from registry.store.store import Store

UNDER_WAY_SECONDS = 3600.0
"""A younger blob that belongs to no artifact may be of a publication that is under way."""
BATCH = 100
"""Blobs that are marked at once: enough to be quick, few enough that nobody waits for long."""
AT_ONCE = 8
"""Blobs of a batch between two looks at the clock."""

POINTS = ("gc marked", "gc listed", "gc deleting", "gc deleted", "gc done")
"""What a `Point` hook hears of, in order; from "gc deleting", where blobs are marked, once per batch."""


class Part(Record):
    """Some of what is freed: how many and how many bytes."""

    count: int = 0
    bytes: int = 0


class Collectable(Record):
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


@dataclass(frozen=True)
class _Unneeded:
    """Blobs that no artifact with content needs, as of the two sequence numbers."""

    blobs: list[StoredBlob]
    leftovers: list[StoredBlob]
    needed: set[str]
    last_artifact: int
    last_event: int


def explain(registry: Registry, artifact_id: str, keeping: RetentionPolicy) -> list[str]:
    """Why the artifact keeps its files; empty when it does not."""
    with registry._database.read() as connection:
        return reach(connection, keeping, datetime.now(UTC)).why(artifact_id)


def collect(
    registry: Registry, keeping: RetentionPolicy | None = None, *, delete: bool = False, cache: bool = False
) -> GcReport:
    """Free what nothing needs, or with `delete` unset only say what that would be.

    `cache` also empties the local cache of an object store, but for what an endpoint or a stage reads. Raises
    Conflict when somebody else writes for too long, StoreFailed for the disk, the database or the store; what
    was done until then stands, and the next collection goes on from there.
    """
    keeping = keeping or RetentionPolicy()
    database, point = registry._database, registry._workshop.point
    marked, kept = _mark(database, keeping, delete)
    point("gc marked")
    with wrap_os_errors("collecting"):
        found = _unneeded(registry, {one.id for one in marked})
        point("gc listed")
        drafts = _stale_drafts(registry, keeping, delete)
        views = _drop_views(registry, [one.id for one in marked], delete)
        if delete:
            found = _delete(registry, found)
            registry._store.sweep()
        cached = _empty_cache(registry, found.needed, delete) if cache else Part()
    point("gc done")
    return GcReport(
        deleted=delete,
        artifacts=marked,
        blobs=_part(found.blobs),
        leftovers=_part(found.leftovers),
        drafts=drafts,
        views=views,
        cached=cached,
        kept=kept,
    )


def _mark(database: Database, keeping: RetentionPolicy, delete: bool) -> tuple[list[Collectable], int]:
    """The artifacts that lose their files, recorded so if `delete`; and how many keep them."""
    with database.write() if delete else database.read() as connection:
        gone = content.collected(connection)
        stays: Reach = reach(connection, keeping, datetime.now(UTC))
        columns = (artifacts.c[name] for name in Collectable.model_fields)
        rows = list(connection.execute(select(*columns).order_by(artifacts.c.sequence)))
        present = [row for row in rows if row.id not in gone]
        lost = [Collectable(**row._asdict()) for row in present if not stays.keeps(row.id)]
        if delete:
            content.collect(connection, {one.id: one.bytes for one in lost})
    return lost, len(present) - len(lost)


def _unneeded(registry: Registry, lost: set[str]) -> _Unneeded:
    needed: set[str] = set()
    spare: set[str] = set()
    with registry._database.read() as connection:
        last_artifact = connection.execute(select(func.max(artifacts.c.sequence))).scalar_one() or 0
        last_event = connection.execute(select(func.max(content_events.c.sequence))).scalar_one() or 0
        gone = content.collected(connection).keys() | lost
        for one, digests in _files(connection):
            (spare if one in gone else needed).update(digests)
    blobs, leftovers = [], []
    before = time.time() - UNDER_WAY_SECONDS
    for blob in registry._store.stored():
        if blob.sha256 in needed:
            continue
        if blob.sha256 in spare:
            blobs.append(blob)
        elif blob.modified < before:
            leftovers.append(blob)
    return _Unneeded(blobs, leftovers, needed, last_artifact, last_event)


def _files(connection: Connection, ids: Collection[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Each artifact's id and the digests of its files."""
    query = select(artifacts.c.id, artifacts.c.manifest)
    if ids is not None:
        query = query.where(artifacts.c.id.in_(list(ids)))
    for row in connection.execute(query.execution_options(yield_per=1000)):
        yield row.id, [entry["sha256"] for entry in json.loads(row.manifest)["files"].values()]


def _delete(registry: Registry, found: _Unneeded) -> _Unneeded:
    """Delete these blobs; returns those that it deleted, which are not those that are needed by now."""
    database, shared, point = registry._database, registry._store.is_shared, registry._workshop.point
    unneeded, deleted = [blob.sha256 for blob in (*found.blobs, *found.leftovers)], set[str]()
    for start in range(0, len(unneeded), BATCH):
        with database.write() as connection:
            new = _needed_since(connection, found)
            gone = [one for one in unneeded[start : start + BATCH] if one not in new]
            batch, until = deletions.mark(connection, gone, shared)
        ended = not shared  # in a store of this machine alone, a deletion ends with the call
        try:
            point("gc deleting")
            _delete_until(registry._store, batch, until)
            ended = True
        finally:
            if ended:
                _unmark(database, batch)
        deleted.update(batch)
        point("gc deleted")
    return replace(
        found,
        blobs=[blob for blob in found.blobs if blob.sha256 in deleted],
        leftovers=[blob for blob in found.leftovers if blob.sha256 in deleted],
    )


def _unmark(database: Database, batch: list[str]) -> None:
    try:
        with database.write() as connection:
            deletions.unmark(connection, batch)
    except StoreFailed:  # a connection that broke meanwhile: who lives on would hold publications up
        with database.write() as connection:
            deletions.unmark(connection, batch)


def _delete_until(store: Store, batch: list[str], until: float) -> None:
    for start in range(0, len(batch), AT_ONCE):
        if time.time() > until:
            raise StoreFailed(
                f"deleting {start} blobs took longer than {deletions.BEGIN_SECONDS:.0f} s, or this process "
                "stood still: it stopped there, and nothing that is needed was deleted; run `tuneline "
                "artifacts gc --delete` again for the rest"
            )
        store.delete(batch[start : start + AT_ONCE])


def _needed_since(connection: Connection, found: _Unneeded) -> set[str]:
    """The blobs of what was published or restored after `found` was looked for."""
    later = select(artifacts.c.id).where(artifacts.c.sequence > found.last_artifact)
    events = select(content_events.c.artifact_id).where(
        (content_events.c.sequence > found.last_event) & (content_events.c.action == "restored")
    )
    ids = {*connection.execute(later).scalars(), *connection.execute(events).scalars()}
    return {digest for _, digests in _files(connection, ids) for digest in digests}


def _drop_views(registry: Registry, lost: Collection[str], delete: bool) -> int:
    """Remove this machine's views of artifacts without content: they keep the bytes of deleted blobs."""
    here = sorted(path.name for path in (registry.home / "views").iterdir() if len(path.name) == 64)
    if not delete:
        with registry._database.read() as connection:
            return len((content.collected(connection).keys() | set(lost)) & set(here))
    dropped = 0
    for start in range(0, len(here), BATCH):
        with registry._database.write() as connection:  # nobody restores and reads one meanwhile
            for one in content.collected(connection, here[start : start + BATCH]):
                registry._store.drop_view(one)
                dropped += 1
    return dropped


def _stale_drafts(registry: Registry, keeping: RetentionPolicy, delete: bool) -> Part:
    """Drafts, with their checkpoints, that no live process works on and nobody wrote to for so many days."""
    before, count, size = time.time() - keeping.days * 86400, 0, 0
    for draft in sorted((registry.home / "drafts").iterdir()):
        with suppress(FileNotFoundError):  # somebody works on it
            changed, alone = _last_change(draft)
            if changed > before:
                continue
            with registry._workshop.leases.if_free(draft.name) as free:
                if not free:
                    continue
                gone = draft.with_name(f".{uuid.uuid4().hex}")
                if delete:
                    draft.rename(gone)
            remove_tree(gone)
            count, size = count + 1, size + alone
    return Part(count=count, bytes=size)


def _last_change(draft: Path) -> tuple[float, int]:
    """When anything in the draft changed last, and the bytes of the files that are nowhere else."""
    changed, alone = draft.lstat().st_mtime, 0
    for path in walk(draft):
        status = path.lstat()
        changed = max(changed, status.st_mtime, path.parent.lstat().st_mtime)
        alone += status.st_size if status.st_nlink == 1 else 0
    return changed, alone


def _empty_cache(registry: Registry, needed: set[str], delete: bool) -> Part:
    """Drop from the cache, and from views, what nobody reads now; views link the cache's bytes."""
    with registry._database.write() if delete else registry._database.read() as connection:
        read, publishing = _read_now(connection)
        busy = {digest for _, digests in _files(connection, read) for digest in digests}
        # What no artifact needs may be on its way into the store from here.
        dropped = [
            blob
            for blob in registry._store.cached()
            if blob.sha256 not in busy and (blob.sha256 in needed or not publishing)
        ]
        if delete:
            for path in (registry.home / "views").iterdir():
                if dropped and path.name not in read:
                    registry._store.drop_view(path.name)
            registry._store.drop_cached(blob.sha256 for blob in dropped)
    return _part(dropped)


def _read_now(connection: Connection) -> tuple[set[str], bool]:
    """The artifacts that endpoints serve or stages read, and whether any stage is at work."""
    running = select(endpoints.c.artifact_id).where(endpoints.c.stopped.is_(None))
    read = set(connection.execute(running).scalars())
    held = [row for row in connection.execute(select(leases)) if is_held(row)]
    for row in held:
        read |= set(json.loads(row.holds or "[]"))
    return read, bool(held)


def _part(blobs: Iterable[StoredBlob]) -> Part:
    sizes = [blob.size for blob in blobs]
    return Part(count=len(sizes), bytes=sum(sizes))
