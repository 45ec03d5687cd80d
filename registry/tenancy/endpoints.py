"""Endpoints: which engine serves which artifact, where, and in which process."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from registry import catalog, content
from registry.artifacts import Record, canonical
from registry.db.engine import Database, now
from registry.db.tables import endpoints
from registry.errors import NotFound
from registry.processes import ProcessId

IN_GATEWAY = "gateway engine "
"""An `url` that begins so names an engine of a gateway, whose process is that of its other engines too."""
OPERATIONS = "operations"
"""In the `config` of an engine of a gateway: the address at which the gateway gives its numbers."""


class Endpoint(Record):
    """An engine's process and what it serves; `stopped` is None until somebody marked it so.

    A pid is given out again: whoever acts on it takes `process`.
    """

    id: str
    artifact_id: str
    channel: str | None
    engine: str
    url: str
    pid: int
    pid_started: float
    log: Path
    started: datetime
    stopped: datetime | None
    question: str | None
    answer: str | None
    config: dict[str, Any]

    @property
    def process(self) -> ProcessId:
        """What runs it."""
        return ProcessId(self.pid, self.pid_started)

    @property
    def in_gateway(self) -> bool:
        """Whether its process is a gateway's, which serves with other engines too."""
        return self.url.startswith(IN_GATEWAY)


class Endpoints:
    """The endpoints of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        artifact_id: str,
        engine: str,
        url: str,
        process: ProcessId,
        log: Path | str,
        channel: str | None = None,
        question: str | None = None,
        answer: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Endpoint:
        """Write down a started engine."""
        row = {
            "id": secrets.token_hex(4),
            "artifact_id": artifact_id,
            "channel": channel,
            "engine": engine,
            "url": url,
            **process.record,
            "log": str(log),
            "started": now(),
            "question": question,
            "answer": answer,
            "config": canonical(dict(config or {})).decode(),
        }
        with self._database.write() as connection:
            catalog.existing(connection, artifact_id)
            content.require(connection, [artifact_id])
            connection.execute(insert(endpoints), row)
        return self.get(str(row["id"]))

    def get(self, endpoint_id: str) -> Endpoint:
        """The endpoint of this id; raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(select(endpoints).where(endpoints.c.id == endpoint_id)).one_or_none()
        if row is None:
            raise NotFound(f"no endpoint {endpoint_id[:40]!r}; `tuneline endpoints ls` lists them")
        return _endpoint(row)

    def ls(self, running_only: bool = False) -> list[Endpoint]:
        """Newest first; `running_only` leaves out those marked stopped, dead or not."""
        with self._database.read() as connection:
            return rows(connection, running_only)

    def mark_stopped(self, endpoint_id: str) -> Endpoint:
        """Record that the engine was stopped; the first time counts. Raises NotFound."""
        with self._database.write() as connection:
            still = (endpoints.c.id == endpoint_id) & endpoints.c.stopped.is_(None)
            connection.execute(update(endpoints).where(still), {"stopped": now()})
        return self.get(endpoint_id)


def rows(connection: Connection, running_only: bool) -> list[Endpoint]:
    """As `Endpoints.ls`, within a transaction."""
    query = select(endpoints).order_by(endpoints.c.sequence.desc())
    if running_only:
        query = query.where(endpoints.c.stopped.is_(None))
    return [_endpoint(row) for row in connection.execute(query)]


def _endpoint(row: Row[Any]) -> Endpoint:
    return Endpoint.of_row(row, config=json.loads(row.config))
