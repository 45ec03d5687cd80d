"""Whether an artifact's files are in the store, or were collected to free space. Its record always stays."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from registry.db.engine import now
from registry.db.tables import artifacts, content_events
from registry.errors import Collected


def collected(connection: Connection, ids: Collection[str] | None = None) -> dict[str, str]:
    """Those of the artifacts (default: of all) whose content was collected, with the time of it."""
    query = select(content_events.c.artifact_id, content_events.c.action, content_events.c.at)
    if ids is not None:
        query = query.where(content_events.c.artifact_id.in_(list(ids)))
    latest = {row.artifact_id: row for row in connection.execute(query.order_by(content_events.c.sequence))}
    return {artifact_id: row.at for artifact_id, row in latest.items() if row.action == "collected"}


def digests(connection: Connection, ids: Collection[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """The id of each of the artifacts (default: of all), and the digests of its files."""
    query = select(artifacts.c.id, artifacts.c.manifest)
    if ids is not None:
        query = query.where(artifacts.c.id.in_(list(ids)))
    for row in connection.execute(query.execution_options(yield_per=1000)):
        yield row.id, [entry["sha256"] for entry in json.loads(row.manifest)["files"].values()]


def require(connection: Connection, ids: Iterable[str]) -> None:
    """Raise Collected when the content of one of these artifacts was collected.

    Within a writing transaction what was found stays true, since content is collected under the same lock.
    """
    gone = collected(connection, list(ids))
    if gone:
        artifact_id, at = next(iter(gone.items()))
        query = select(artifacts.c.kind, artifacts.c.stage).where(artifacts.c.id == artifact_id)
        raise _collected(artifact_id, at, connection.execute(query).one())


def collect(connection: Connection, sizes: dict[str, int]) -> None:
    """Record that the content of these artifacts (id → bytes) is no longer kept."""
    at = now()
    rows = [
        {"artifact_id": artifact_id, "action": "collected", "bytes": size, "at": at}
        for artifact_id, size in sizes.items()
    ]
    if rows:
        connection.execute(insert(content_events), rows)


def _collected(artifact_id: str, at: str, row: Row[Any]) -> Collected:
    again = (
        "import it again"
        if row.stage == "import"
        else f"run again the recipe that made it, whose stage {row.stage} is then done again"
    )
    return Collected(
        f"the files of {row.kind} {artifact_id[:12]} were collected at {at[:19]} to free space; its record "
        f"and lineage are still here. To have them back, {again}: equal files come back under the same id"
    )
