"""What a collection frees on this machine alone: views, the cache of an object store, abandoned drafts."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, select

from registry import content
from registry.db.tables import endpoints, leases
from registry.drafts import DraftContext
from registry.gc.reachability import RetentionPolicy
from registry.gc.report import Part, part
from registry.leases import is_held
from registry.store.files import remove_tree, walk

_AT_ONCE = 100
"""Views that are removed in one transaction."""


def drop_views(context: DraftContext, lost: Collection[str], delete: bool) -> int:
    """Remove this machine's views of artifacts without content: they keep the bytes of deleted blobs."""
    views = context.store.views()
    if not delete:
        with context.database.read() as connection:
            return len((content.collected(connection).keys() | set(lost)) & set(views))
    dropped = 0
    for start in range(0, len(views), _AT_ONCE):
        with context.database.write() as connection:  # nobody restores and reads one meanwhile
            for artifact_id in content.collected(connection, views[start : start + _AT_ONCE]):
                context.store.drop_view(artifact_id)
                dropped += 1
    return dropped


def remove_stale_drafts(context: DraftContext, retention: RetentionPolicy, delete: bool) -> Part:
    """Drafts, with their checkpoints, that no live process works on and nobody wrote to for so many days."""
    before, count, size = time.time() - retention.days * 86400, 0, 0
    for draft in sorted(context.root.iterdir()):
        with suppress(FileNotFoundError):  # a process works on it
            changed, alone = _last_change(draft)
            if changed > before:
                continue
            with context.leases.if_free(draft.name) as free:
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


def empty_cache(context: DraftContext, needed: set[str], delete: bool) -> Part:
    """Drop from the cache, and from views, what nobody reads now; views link the cache's bytes."""
    store = context.store
    with context.database.write() if delete else context.database.read() as connection:
        read, publishing = _read_now(connection)
        busy = {digest for _, digests in content.digests(connection, read) for digest in digests}
        # What no artifact needs may be on its way into the store from here.
        dropped = [
            blob
            for blob in store.cached()
            if blob.sha256 not in busy and (blob.sha256 in needed or not publishing)
        ]
        if delete:
            for artifact_id in store.views():
                if dropped and artifact_id not in read:
                    store.drop_view(artifact_id)
            store.drop_cached(blob.sha256 for blob in dropped)
    return part(dropped)


def _read_now(connection: Connection) -> tuple[set[str], bool]:
    """The artifacts that endpoints serve or stages read, and whether any stage is at work."""
    running = select(endpoints.c.artifact_id).where(endpoints.c.stopped.is_(None))
    read = set(connection.execute(running).scalars())
    held = [row for row in connection.execute(select(leases)) if is_held(row)]
    for row in held:
        read |= set(json.loads(row.holds or "[]"))
    return read, bool(held)
