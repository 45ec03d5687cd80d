"""Reading the registry page by page, for those who only look: filters, cursors, lineage both ways.

Every list is in an order that new rows cannot disturb: the cursor is the place of the last row that was seen,
so a page that follows another neither repeats a row nor leaves one out, whatever was published meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Column, Connection, Row, Select, Table, case, func, select

from registry import catalog
from registry.artifacts import Kind, Record, Relation
from registry.db.tables import (
    artifacts,
    channel_events,
    channels,
    edges,
    endpoints,
    executions,
    gate_decisions,
    names,
)
from registry.quantization import QuantMethod

Columns = Mapping[str, Any]
"""A row of a table, by the names of its columns."""
Rows = tuple[Sequence[Columns], int | str | None]
"""A page of rows, and the cursor of the next one, or None at the end."""
Direction = Literal["up", "down"]

_CONTENT = case((catalog.content_present(), "present"), else_="collected").label("content")
_COLUMNS = "sequence id kind stage created bytes base_source base_revision quant_method"
_SUMMARY = (*(artifacts.c[column] for column in _COLUMNS.split()), _CONTENT)


class Node(Record):
    """An artifact in a lineage; `depth` is its distance from the one that was asked about."""

    id: str
    kind: Kind
    stage: str
    depth: int


class Link(Record):
    """`child` came from `parent`."""

    child: str
    relation: Relation
    parent: str


class Graph(Record):
    """A lineage; `truncated` when it goes on beyond the depth or the number of edges that was asked for."""

    nodes: list[Node]
    edges: list[Link]
    truncated: bool


class ArtifactFilters(NamedTuple):
    """Which artifacts: those that fit all that is given; `name` matches every version of that name."""

    kind: Kind | None = None
    stage: str | None = None
    name: str | None = None
    base_revision: str | None = None
    quant_method: QuantMethod | None = None


def artifact_page(
    connection: Connection, filters: ArtifactFilters, limit: int, after: int | None = None
) -> Rows:
    """Summaries of artifacts, newest first."""
    columns = filters._asdict()
    name = columns.pop("name")
    query = _filtered(select(*_SUMMARY), artifacts, columns)
    if name is not None:
        query = query.where(artifacts.c.id.in_(select(names.c.artifact_id).where(names.c.name == name)))
    return _named(connection, _page(connection, query, artifacts.c.sequence, limit, after))


def content_of(connection: Connection, artifact_id: str) -> str:
    """Whether the content of an artifact, which must exist, is "present" or was "collected"."""
    return str(connection.execute(select(_CONTENT).where(artifacts.c.id == artifact_id)).scalar_one())


def given_names(connection: Connection, artifact_id: str) -> list[Columns]:
    """Every name and version that the artifact was given, oldest first."""
    query = select(names.c.name, names.c.version).where(names.c.artifact_id == artifact_id)
    return [row._asdict() for row in connection.execute(query.order_by(names.c.sequence))]


def evaluations(connection: Connection, artifact_id: str, limit: int, after: int | None) -> Rows:
    """The evaluations of a model, newest first, each with its metrics."""
    about = (edges.c.parent == artifact_id) & (edges.c.relation == "evaluation_of")
    # Within a function, so that SQLite starts from the edges and does not walk through all evaluations.
    is_evaluation = func.lower(artifacts.c.kind) == "evaluation"
    query = select(*_SUMMARY, artifacts.c.manifest).where(
        is_evaluation & artifacts.c.id.in_(select(edges.c.child).where(about))
    )
    return _named(connection, _page(connection, query, artifacts.c.sequence, limit, after))


def runs(connection: Connection, artifact_id: str, limit: int, after: int | None) -> Rows:
    """The executions that led to the artifact, newest first."""
    query = select(executions).where(executions.c.artifact_id == artifact_id)
    return _page(connection, query, executions.c.sequence, limit, after)


def decisions(
    connection: Connection, columns: Mapping[str, str | None], limit: int, after: int | None = None
) -> Rows:
    """Gate decisions with these values (None: any), newest first, without policy and evidence."""
    kept = ("sequence", "id", "candidate", "baseline", "verdict", "created", "signer")
    query = _filtered(select(*(gate_decisions.c[column] for column in kept)), gate_decisions, columns)
    return _page(connection, query, gate_decisions.c.sequence, limit, after)


def endpoint_page(
    connection: Connection, *, limit: int, after: int | None = None, channel: str | None, running: bool | None
) -> Rows:
    """Endpoints, newest first; `running` asks for those that are, or are not, marked as stopped."""
    query = select(endpoints)
    if channel is not None:
        query = query.where(endpoints.c.channel == channel)
    if running is not None:
        query = query.where(endpoints.c.stopped.is_(None) if running else endpoints.c.stopped.is_not(None))
    return _page(connection, query, endpoints.c.sequence, limit, after)


def name_page(connection: Connection, *, limit: int, after: int | None = None, name: str | None) -> Rows:
    """Names, the latest given first."""
    query = select(names)
    if name is not None:
        query = query.where(names.c.name == name)
    return _page(connection, query, names.c.sequence, limit, after)


def channel_page(connection: Connection, *, limit: int, after: str | None, team: str | None) -> Rows:
    """Channels by name."""
    query = select(channels).order_by(channels.c.name).limit(limit + 1)
    if after is not None:
        query = query.where(channels.c.name > after)
    if team is not None:
        query = query.where(channels.c.name.startswith(f"{team}/", autoescape=True))
    rows: list[Columns] = [row._asdict() for row in connection.execute(query)]
    return rows[:limit], rows[limit - 1]["name"] if len(rows) > limit else None


def history(connection: Connection, channel: str, *, limit: int, after: int | None = None) -> Rows:
    """A channel's moves, the latest first."""
    query = select(channel_events).where(channel_events.c.channel == channel)
    return _page(connection, query, channel_events.c.generation, limit, after)


def lineage(connection: Connection, artifact_id: str, direction: Direction, depth: int, most: int) -> Graph:
    """What the artifact was made from (`up`) or what was made from it (`down`).

    Nearest first, to `depth` steps and about `most` edges: a step is given whole or not at all.
    """
    here, there = (edges.c.child, edges.c.parent) if direction == "up" else (edges.c.parent, edges.c.child)
    reached: dict[str, int] = {artifact_id: 0}
    links: list[Link] = []
    front, truncated = [artifact_id], False
    for step in range(1, depth + 2):
        query = select(edges).where(here.in_(front)).order_by(here, edges.c.relation, there)
        rows = list(connection.execute(query.limit(most - len(links) + 1)))
        if not rows:
            break
        if step > depth or len(links) + len(rows) > most:
            truncated = True
            break
        links += [Link.model_validate(row._asdict()) for row in rows]
        front = list(dict.fromkeys(i for row in rows if (i := getattr(row, there.name)) not in reached))
        reached |= dict.fromkeys(front, step)
    return Graph(nodes=_nodes(connection, reached), edges=links, truncated=truncated)


def _nodes(connection: Connection, reached: dict[str, int]) -> list[Node]:
    ids, rows = list(reached), dict[str, Row[Any]]()
    for start in range(0, len(ids), 500):
        some = artifacts.c.id.in_(ids[start : start + 500])
        query = select(artifacts.c.id, artifacts.c.kind, artifacts.c.stage).where(some)
        rows |= {row.id: row for row in connection.execute(query)}
    return [Node(id=i, kind=rows[i].kind, stage=rows[i].stage, depth=depth) for i, depth in reached.items()]


def _filtered(query: Select[Any], table: Table, columns: Mapping[str, str | None]) -> Select[Any]:
    for column, value in columns.items():
        if value is not None:
            query = query.where(table.c[column] == value)
    return query


def _page(
    connection: Connection, query: Select[Any], order: Column[int], limit: int, after: int | None
) -> Rows:
    if after is not None:
        query = query.where(order < after)
    query = query.order_by(order.desc()).limit(limit + 1)
    rows: list[Columns] = [row._asdict() for row in connection.execute(query)]
    return rows[:limit], rows[limit - 1][order.name] if len(rows) > limit else None


def _named(connection: Connection, page: Rows) -> Rows:
    """Each artifact's latest name and version beside it."""
    rows, following = page
    query = select(names.c.artifact_id, names.c.name, names.c.version)
    query = query.where(names.c.artifact_id.in_([row["id"] for row in rows])).order_by(names.c.sequence)
    latest = {
        row.artifact_id: {"name": row.name, "version": row.version} for row in connection.execute(query)
    }
    nameless = {"name": None, "version": None}
    return [{**row, **latest.get(row["id"], nameless)} for row in rows], following
