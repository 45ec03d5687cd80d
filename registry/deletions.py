"""Marks on blobs that a collection is deleting: nobody counts on a marked blob.

A lock alone cannot keep a publication away from a blob that is being deleted: PostgreSQL's ends with its
connection while the collection works on, and a request to an object store may arrive after whoever sent it is
gone. So a collection commits a mark per blob, deletes the blobs, and takes the marks away. A publication that
finds one of its blobs marked waits until the mark is gone or void, stores the blob anew and looks again.

A mark is void once its process is known to be dead, if the store is this machine's own, and else when it runs
out; a collection begins no deletion so late that it could still be under way by then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from registry.db.tables import deletions
from registry.processes import ProcessId, host_id

MARK_SECONDS = 300.0
"""How long a mark lasts that nobody takes away."""
BEGIN_SECONDS = 60.0
"""For so long after marking may deletions begin; one request ends within 180 s (`registry.store.s3`)."""


def mark(connection: Connection, digests: Iterable[str], shared: bool) -> tuple[list[str], float]:
    """Mark blobs that nothing needs, but for those that another collection deletes now.

    Needs a writing transaction, and holds once that is committed. Returns what was marked, and the time, in
    seconds since the epoch, after which none of it may be deleted. `shared`: as `Store.is_shared` says.
    """
    at, others = time.time(), marked(connection, shared)
    mine = [digest for digest in digests if digest not in others]
    connection.execute(delete(deletions).where(deletions.c.sha256.not_in(others)))
    if mine:
        row = {"host": host_id(), **ProcessId.of().record, "expires": at + MARK_SECONDS}
        connection.execute(insert(deletions), [{"sha256": digest, **row} for digest in mine])
    return mine, at + BEGIN_SECONDS


def unmark(connection: Connection, digests: Iterable[str]) -> None:
    """Take this process's marks away: not before every deletion begun under them has ended, well or not."""
    mine = (deletions.c.host == host_id()) & (deletions.c.pid == os.getpid())
    connection.execute(delete(deletions).where(mine & deletions.c.sha256.in_(list(digests))))


def marked(connection: Connection, shared: bool) -> set[str]:
    """The blobs that may be deleted at any moment, whatever the store says of them now.

    In a writing transaction: a blob that is not among them and that the store has *after* this call stays.
    """
    return {row.sha256 for row in connection.execute(select(deletions)) if _counts(row, shared)}


def _counts(row: Row[Any], shared: bool) -> bool:
    may_live = row.host != host_id() or ProcessId(row.pid, row.pid_started).is_alive()
    return row.expires > time.time() and (shared or may_live)
