"""Endpoints: which engine serves which artifact, where, and in which process."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row, insert, select, update

from registry import catalog
from registry.artifacts import canonical
from registry.database import Database, now
from registry.errors import NotFound
from registry.processes import alive
from registry.schema import endpoints


@dataclass(frozen=True)
class Endpoint:
    """An engine's process and what it serves. `stopped` is None until somebody marked it so."""

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
    def is_running(self) -> bool:
        """Not marked stopped, and the very process (not another with its pid) is alive on this machine."""
        return self.stopped is None and alive(self.pid, self.pid_started)


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
        pid: int,
        pid_started: float,
        log: Path | str,
        channel: str | None = None,
        question: str | None = None,
        answer: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Endpoint:
        """Write down a started engine; `pid_started` is psutil's `create_time()` (epoch seconds)."""
        row = {
            "id": secrets.token_hex(4),
            "artifact_id": artifact_id,
            "channel": channel,
            "engine": engine,
            "url": url,
            "pid": pid,
            "pid_started": pid_started,
            "log": str(log),
            "started": now(),
            "question": question,
            "answer": answer,
            "config": canonical(dict(config or {})).decode(),
        }
        with self._database.write() as connection:
            catalog.existing(connection, artifact_id)
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
        """Newest first; `running_only` leaves out those marked stopped and those whose process is gone."""
        with self._database.read() as connection:
            found = [
                _endpoint(r)
                for r in connection.execute(select(endpoints).order_by(endpoints.c.sequence.desc()))
            ]
        return [endpoint for endpoint in found if endpoint.is_running or not running_only]

    def mark_stopped(self, endpoint_id: str) -> Endpoint:
        """Record that the engine was stopped; the first time counts. Raises NotFound."""
        with self._database.write() as connection:
            still = (endpoints.c.id == endpoint_id) & endpoints.c.stopped.is_(None)
            connection.execute(update(endpoints).where(still), {"stopped": now()})
        return self.get(endpoint_id)


def _endpoint(row: Row[Any]) -> Endpoint:
    fields = row._asdict()
    del fields["sequence"]
    fields["log"] = Path(row.log)
    fields["started"] = datetime.fromisoformat(row.started)
    fields["stopped"] = datetime.fromisoformat(row.stopped) if row.stopped else None
    fields["config"] = json.loads(row.config)
    return Endpoint(**fields)
