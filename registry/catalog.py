"""What is published: one row per artifact, with its parents, keys, names and executions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, insert, select

from registry.artifacts import BaseReference, Kind, Manifest, QuantSpec, Record, Relation, canonical
from registry.db.engine import now
from registry.db.tables import artifacts, content_events, edges, executions, keys, names
from registry.errors import NotFound
from registry.processes import host_id, this_host

ROW = (artifacts.c.id, artifacts.c.manifest, artifacts.c.created)


class Artifact(Record):
    """A published artifact; name and version are the latest that it was given, if any."""

    id: str
    manifest: Manifest
    created: datetime
    name: str | None = None
    version: int | None = None

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size for entry in self.manifest.files.values())

    @property
    def called(self) -> str | None:
        """The latest name that it was given, as `name@version`."""
        return None if self.name is None else f"{self.name}@{self.version}"


class Edge(Record):
    """`child` came from `parent`."""

    child: str
    relation: Relation
    parent: str


@dataclass(frozen=True)
class ResourceUse:
    """What a piece of work took. `machine`: the caller's name for it beside the host's, if it has one."""

    started: datetime
    seconds: float
    peak_bytes: int | None = None
    machine: str = ""


class Execution(Record):
    """One run that led to an artifact."""

    artifact_id: str
    key: str
    started: datetime
    seconds: float
    peak_bytes: int | None
    host: str


def publish(
    connection: Connection, manifest: Manifest, artifact_id: str, key: str, use: ResourceUse
) -> Artifact:
    """Write the rows of an artifact; returns what the key stands for from now on.

    A key that already stands for an artifact keeps it, so that what was built on it stays valid; once that
    artifact's content was collected, the key is bound again. Content that was collected is back with this.
    """
    bound = by_key(connection, key)
    if bound is not None:
        return bound
    at = now()
    if by_id(connection, artifact_id) is None:
        connection.execute(insert(artifacts), _columns(manifest, artifact_id, at))
        parentage = {(p.relation, p.id) for p in manifest.parents}
        rows = [{"child": artifact_id, "relation": r, "parent": p} for r, p in sorted(parentage)]
        if rows:
            connection.execute(insert(edges), rows)
    else:
        restore(connection, artifact_id)
    same = (keys.c.key == key) & (keys.c.artifact_id == artifact_id)
    if connection.execute(select(keys.c.key).where(same)).first() is None:
        connection.execute(insert(keys), {"key": key, "artifact_id": artifact_id, "created": at})
    run = {
        "artifact_id": artifact_id,
        "key": key,
        "started": use.started.isoformat(),
        "seconds": use.seconds,
        "peak_bytes": use.peak_bytes,
        "host": f"{host_id()} {use.machine}".rstrip(),
    }
    connection.execute(insert(executions), run)
    published = by_id(connection, artifact_id)
    assert published is not None
    return published


def by_key(connection: Connection, key: str) -> Artifact | None:
    """The artifact that the memo key stands for: the one bound to it last whose content is in the store."""
    query = select(*ROW).join(keys, keys.c.artifact_id == artifacts.c.id)
    query = query.where((keys.c.key == key) & content_present())
    query = query.order_by(keys.c.created.desc(), artifacts.c.sequence.desc()).limit(1)
    return next(iter(read(connection, query)), None)


def content_present() -> ColumnElement[bool]:
    """A condition on `artifacts`: the latest of its content events, if any, is not 'collected'."""
    mine = content_events.c.artifact_id == artifacts.c.id
    latest = select(content_events.c.action).where(mine).order_by(content_events.c.sequence.desc()).limit(1)
    return func.coalesce(latest.correlate(artifacts).scalar_subquery(), "restored") != "collected"


def restore(connection: Connection, artifact_id: str) -> None:
    """Record that the content of a collected artifact is in the store again; no effect on another one."""
    query = select(artifacts.c.bytes).where((artifacts.c.id == artifact_id) & ~content_present())
    size = connection.execute(query).scalar_one_or_none()
    if size is not None:
        event = {"artifact_id": artifact_id, "action": "restored", "bytes": size, "at": now()}
        connection.execute(insert(content_events), event)


def by_id(connection: Connection, artifact_id: str) -> Artifact | None:
    """The artifact of this full id."""
    return next(iter(read(connection, select(*ROW).where(artifacts.c.id == artifact_id))), None)


def existing(connection: Connection, artifact_id: str) -> Artifact:
    """The artifact of this full id; raises NotFound."""
    artifact = by_id(connection, artifact_id)
    if artifact is None:
        raise _no_such(artifact_id)
    return artifact


def page(connection: Connection, kind: Kind | None, limit: int, after: str | None) -> list[Artifact]:
    """Newest first; `after` is the id of the last artifact of the page before."""
    query = select(*ROW).order_by(artifacts.c.sequence.desc()).limit(limit)
    if kind is not None:
        query = query.where(artifacts.c.kind == kind)
    if after is not None:
        last = connection.execute(select(artifacts.c.sequence).where(artifacts.c.id == after)).scalar()
        if last is None:
            raise _no_such(after)
        query = query.where(artifacts.c.sequence < last)
    return read(connection, query)


def lineage(connection: Connection, artifact_id: str) -> list[Edge]:
    """Every edge above the artifact, nearest first."""
    above = select(edges).where(edges.c.child == artifact_id).cte("above", recursive=True)
    above = above.union(select(edges).join(above, edges.c.child == above.c.parent))
    below: dict[str, list[Edge]] = {}
    for row in connection.execute(select(above).order_by(above.c.child, above.c.relation, above.c.parent)):
        below.setdefault(row.child, []).append(Edge.model_validate(row._asdict()))
    ordered: list[Edge] = []
    waiting = [artifact_id]
    for child in waiting:
        nearest = below.pop(child, [])
        ordered += nearest
        waiting += [edge.parent for edge in nearest]
    return ordered


def evaluations(connection: Connection, artifact_id: str) -> list[Artifact]:
    """The evaluations that name the artifact as what they measured, oldest first."""
    measured = (edges.c.parent == artifact_id) & (edges.c.relation == "evaluation_of")
    query = select(*ROW).join(edges, edges.c.child == artifacts.c.id).where(measured)
    return read(connection, query.order_by(artifacts.c.sequence))


def runs(connection: Connection, artifact_id: str) -> list[Execution]:
    """The executions that led to the artifact, oldest first."""
    query = select(executions).where(executions.c.artifact_id == artifact_id).order_by(executions.c.sequence)
    return [Execution.of_row(row) for row in connection.execute(query)]


def runs_here(
    connection: Connection, stage: str, machine: str, limit: int
) -> list[tuple[Artifact, Execution]]:
    """What a stage made on this host, recorded under that name of the machine, and what that took; the latest
    first."""
    made, host = executions.c.artifact_id, executions.c.host
    mine = host.startswith(f"{this_host()} ", autoescape=True) & host.endswith(f" {machine}", autoescape=True)
    query = select(executions).join(artifacts, made == artifacts.c.id)
    query = query.where((artifacts.c.stage == stage) & mine).order_by(executions.c.sequence.desc())
    rows = [Execution.of_row(row) for row in connection.execute(query.limit(limit))]
    return [(existing(connection, execution.artifact_id), execution) for execution in rows]


def record_problems(connection: Connection, artifact_id: str) -> list[str]:
    """Where an artifact's columns and edges differ from its manifest, or its manifest from its id."""
    row = connection.execute(select(artifacts).where(artifacts.c.id == artifact_id)).one()
    manifest = Manifest.model_validate_json(row.manifest)
    problems = []
    if manifest.id != artifact_id:
        problems.append(f"the manifest's digest is {manifest.id[:12]}, not the id")
    expected = _columns(manifest, artifact_id, row.created)
    problems += [
        f"column {c} is {getattr(row, c)!r}, the manifest says {v!r}"
        for c, v in expected.items()
        if getattr(row, c) != v
    ]
    query = select(edges.c.relation, edges.c.parent).where(edges.c.child == artifact_id)
    held = {(row.relation, row.parent) for row in connection.execute(query)}
    if held != {(p.relation, p.id) for p in manifest.parents}:
        problems.append("the recorded parents are not those of the manifest")
    return problems


def _columns(manifest: Manifest, artifact_id: str, created: str) -> Mapping[str, object]:
    base, quant = manifest.base, manifest.quant
    return {
        "id": artifact_id,
        "kind": manifest.kind,
        "stage": manifest.stage,
        "stage_version": manifest.stage_version,
        "created": created,
        "bytes": sum(entry.size for entry in manifest.files.values()),
        **{f"base_{field}": getattr(base, field, None) for field in BaseReference.model_fields},
        **{f"quant_{field}": _column(getattr(quant, field, None)) for field in QuantSpec.model_fields},
        "manifest": canonical(manifest.model_dump(mode="json")).decode(),
    }


def _column(value: Any) -> Any:
    return canonical(value).decode() if isinstance(value, dict) else value


def read(connection: Connection, query: Select[Any]) -> list[Artifact]:
    """The artifacts of a query for the columns `ROW`, each with its latest name."""
    rows: list[Row[Any]] = list(connection.execute(query))
    given = _names(connection, [row.id for row in rows])
    return [
        Artifact(
            id=row.id,
            manifest=Manifest.model_validate_json(row.manifest),
            created=datetime.fromisoformat(row.created),
            name=given.get(row.id, (None, None))[0],
            version=given.get(row.id, (None, None))[1],
        )
        for row in rows
    ]


def _names(connection: Connection, ids: Iterable[str]) -> dict[str, tuple[str, int]]:
    query = select(names.c.artifact_id, names.c.name, names.c.version).where(
        names.c.artifact_id.in_(list(ids))
    )
    return {
        row.artifact_id: (row.name, row.version)
        for row in connection.execute(query.order_by(names.c.sequence))
    }


def _no_such(artifact_id: str) -> NotFound:
    return NotFound(
        f"no artifact {artifact_id[:64]!r} in this registry; `tuneline artifacts ls` lists what there is"
    )
