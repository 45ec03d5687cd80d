"""Collecting what nothing needs: files go, records stay.

An artifact keeps its files while `registry.gc.reachability` says so. Others lose them in two steps. First, in
one transaction, they are marked as collected: from then on nobody builds on them, and a memo key that stood
for one stands for nothing. Then blobs that no artifact with content needs are deleted, a batch at a time:
after another look at what was published meanwhile they are marked, deleted, and unmarked
(`registry.deletions`). A publication looks whether all its blobs are there and none is marked. A crash
between any two steps leaves blobs to the next collection.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from registry import content, deletions
from registry.db.engine import Database
from registry.db.tables import artifacts, content_events
from registry.drafts import DraftContext
from registry.errors import StoreFailed
from registry.gc import local
from registry.gc.reachability import RetentionPolicy, reach
from registry.gc.report import Collectable, GcReport, Part, part
from registry.store.files import wrap_os_errors
from registry.store.local import StoredBlob
from registry.store.store import Store

UNDER_WAY_SECONDS = 3600.0
"""A younger blob that belongs to no artifact may be of a publication that is under way."""
BATCH = 100
"""Blobs that are marked at once: enough to be quick, few enough that nobody waits for long."""
AT_ONCE = 8
"""Blobs of a batch between two looks at the clock."""

FAILPOINTS = ("gc marked", "gc listed", "gc deleting", "gc deleted", "gc done")
"""The failpoints of a collection, in order; from "gc deleting", where blobs are marked, once per batch."""


@dataclass(frozen=True)
class _Unneeded:
    """Blobs that no artifact with content needs, as of the two sequence numbers."""

    blobs: list[StoredBlob]
    leftovers: list[StoredBlob]
    needed: set[str]
    last_artifact: int
    last_event: int


def collect(context: DraftContext, retention: RetentionPolicy, *, delete: bool, cache: bool) -> GcReport:
    """See `Registry.collect`."""
    marked, kept = _mark(context.database, retention, delete)
    lost = [artifact.id for artifact in marked]
    context.failpoint("gc marked")
    with wrap_os_errors("collecting"):
        unneeded = _unneeded(context, set(lost))
        context.failpoint("gc listed")
        drafts = local.remove_stale_drafts(context, retention, delete)
        views = local.drop_views(context, lost, delete)
        if delete:
            unneeded = _delete(context, unneeded)
            context.store.sweep()
        cached = local.empty_cache(context, unneeded.needed, delete) if cache else Part()
    context.failpoint("gc done")
    return GcReport(
        deleted=delete,
        artifacts=marked,
        blobs=part(unneeded.blobs),
        leftovers=part(unneeded.leftovers),
        drafts=drafts,
        views=views,
        cached=cached,
        kept=kept,
    )


def _mark(database: Database, retention: RetentionPolicy, delete: bool) -> tuple[list[Collectable], int]:
    """The artifacts that lose their files, recorded so if `delete`; and how many keep them."""
    with database.write() if delete else database.read() as connection:
        gone = content.collected(connection)
        stays = reach(connection, retention, datetime.now(UTC))
        columns = (artifacts.c[name] for name in Collectable.model_fields)
        rows = list(connection.execute(select(*columns).order_by(artifacts.c.sequence)))
        present = [row for row in rows if row.id not in gone]
        lost = [Collectable(**row._asdict()) for row in present if not stays.keeps(row.id)]
        if delete:
            content.collect(connection, {artifact.id: artifact.bytes for artifact in lost})
    return lost, len(present) - len(lost)


def _unneeded(context: DraftContext, lost: set[str]) -> _Unneeded:
    needed: set[str] = set()
    spare: set[str] = set()
    with context.database.read() as connection:
        last_artifact = connection.execute(select(func.max(artifacts.c.sequence))).scalar_one() or 0
        last_event = connection.execute(select(func.max(content_events.c.sequence))).scalar_one() or 0
        gone = content.collected(connection).keys() | lost
        for artifact_id, digests in content.digests(connection):
            (spare if artifact_id in gone else needed).update(digests)
    blobs, leftovers = [], []
    before = time.time() - UNDER_WAY_SECONDS
    for blob in context.store.stored():
        if blob.sha256 in needed:
            continue
        if blob.sha256 in spare:
            blobs.append(blob)
        elif blob.modified < before:
            leftovers.append(blob)
    return _Unneeded(blobs, leftovers, needed, last_artifact, last_event)


def _delete(context: DraftContext, unneeded: _Unneeded) -> _Unneeded:
    """Delete these blobs; returns those that it deleted, which are not those that are needed by now."""
    database, shared = context.database, context.store.is_shared
    digests, deleted = [blob.sha256 for blob in (*unneeded.blobs, *unneeded.leftovers)], set[str]()
    for start in range(0, len(digests), BATCH):
        with database.write() as connection:
            new = _needed_since(connection, unneeded)
            gone = [digest for digest in digests[start : start + BATCH] if digest not in new]
            batch, until = deletions.mark(connection, gone, shared)
        ended = not shared  # in a store of this machine alone, a deletion ends with the call
        try:
            context.failpoint("gc deleting")
            _delete_until(context.store, batch, until)
            ended = True
        finally:
            if ended:
                _unmark(database, batch)
        deleted.update(batch)
        context.failpoint("gc deleted")
    return replace(
        unneeded,
        blobs=[blob for blob in unneeded.blobs if blob.sha256 in deleted],
        leftovers=[blob for blob in unneeded.leftovers if blob.sha256 in deleted],
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
                "was suspended: it stopped, and nothing that is needed was deleted; run `tuneline "
                "artifacts gc --delete` again for the rest"
            )
        store.delete(batch[start : start + AT_ONCE])


def _needed_since(connection: Connection, listed: _Unneeded) -> set[str]:
    """The blobs of what was published or restored after the blobs were listed."""
    later = select(artifacts.c.id).where(artifacts.c.sequence > listed.last_artifact)
    events = select(content_events.c.artifact_id).where(
        (content_events.c.sequence > listed.last_event) & (content_events.c.action == "restored")
    )
    ids = {*connection.execute(later).scalars(), *connection.execute(events).scalars()}
    return {digest for _, digests in content.digests(connection, ids) for digest in digests}
