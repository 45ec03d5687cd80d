"""The pages of the API: one function each, over one transaction each."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from fastapi.routing import APIRouter
from sqlalchemy import Connection, select

from registry import catalog, references
from registry.api import models as answers
from registry.api import queries
from registry.api.middleware import IMMUTABLE
from registry.artifacts import Digest, Kind, canonical
from registry.channels.decisions import Verdict
from registry.db import tables as schema
from registry.db.engine import Database
from registry.errors import NotFound
from registry.quantization import QuantMethod

LIMIT = 200
"""Most items of a page."""
DEPTH = 64
EDGES = 2000

_REF = "an id, its first 6 or more digits, NAME@VERSION, or a channel TEAM/NAME"
_PRINTABLE = r"^[\x20-\x7e]+$"
Ref = Annotated[str, Path(min_length=1, max_length=200, pattern=_PRINTABLE, description=_REF)]
Word = Annotated[str, Query(min_length=1, max_length=200, pattern=_PRINTABLE)]
Part = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Limit = Annotated[int, Query(ge=1, le=LIMIT, description="most items of this page")]
Cursor = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next` of the page before")]

v1 = APIRouter(prefix="/v1")
health = APIRouter()


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


# Not the transaction itself: a request that held one while it waits for a thread could keep the threads of
# others waiting for a connection.
Source = Annotated[Database, Depends(_database)]


@v1.get("/artifacts")
def artifacts(
    database: Source,
    kind: Kind | None = None,
    name: Annotated[Word | None, Query(description="a name, whatever the version")] = None,
    base_revision: Word | None = None,
    quant_method: QuantMethod | None = None,
    stage: Word | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> answers.Page[answers.Summary]:
    """Artifacts, newest first."""
    with database.read() as connection:
        filters = queries.ArtifactFilters(kind, stage, name, base_revision, quant_method)
        return _page(answers.Summary, queries.artifact_page(connection, filters, limit, cursor))


# A channel's name has a slash, so a reference takes the rest of the path: what hangs below one comes first.
@v1.get("/artifacts/{ref:path}/manifest")
def manifest(database: Source, response: Response, ref: Ref) -> dict[str, Any]:
    """The canonical manifest, byte for byte: its sha256 is the artifact's id."""
    with database.read() as connection:
        artifact = _resolved(connection, ref, response)
        body, headers = canonical(artifact.manifest.model_dump(mode="json")), dict(response.headers)
        return Response(body, media_type="application/json", headers=headers)  # type: ignore[return-value]


@v1.get("/artifacts/{ref:path}/files")
def files(database: Source, response: Response, ref: Ref) -> answers.Files:
    """Names, digests and sizes of an artifact's files."""
    with database.read() as connection:
        artifact = _resolved(connection, ref, response)
        entries = [
            answers.FileAnswer(name=name, **entry.model_dump())
            for name, entry in sorted(artifact.manifest.files.items())
        ]
        return answers.Files(id=artifact.id, files=entries)


@v1.get("/artifacts/{ref:path}/lineage")
def lineage(
    database: Source,
    response: Response,
    ref: Ref,
    direction: Annotated[
        queries.Direction, Query(description="up: what it was made from; down: what was made from it")
    ] = "up",
    depth: Annotated[int, Query(ge=1, le=DEPTH, description="most steps away from the artifact")] = 10,
) -> answers.LineageAnswer:
    """Where an artifact comes from, or what came from it, nearest first."""
    with database.read() as connection:
        artifact = _resolved(connection, ref, response if direction == "up" else Response())
        graph = queries.lineage(connection, artifact.id, direction, depth, EDGES)
        return answers.LineageAnswer(id=artifact.id, direction=direction, **dict(graph))


@v1.get("/artifacts/{ref:path}/executions")
def executions(
    database: Source, ref: Ref, limit: Limit = 50, cursor: Cursor = None
) -> answers.Page[answers.ExecutionAnswer]:
    """The runs that led to an artifact, newest first."""
    with database.read() as connection:
        artifact = references.resolve(connection, ref)
        rows, following = queries.runs(connection, artifact.id, limit, cursor)
        shown = [{**row, "host": row["host"].partition(" ")[0]} for row in rows]
        return _page(answers.ExecutionAnswer, (shown, following))


@v1.get("/artifacts/{ref:path}/evaluations")
def evaluations(
    database: Source, ref: Ref, limit: Limit = 50, cursor: Cursor = None
) -> answers.Page[answers.EvaluationAnswer]:
    """The evaluations of a model, newest first."""
    with database.read() as connection:
        artifact = references.resolve(connection, ref)
        rows, following = queries.evaluations(connection, artifact.id, limit, cursor)
        shown = [{**row, "metrics": json.loads(row["manifest"])["metrics"]} for row in rows]
        return _page(answers.EvaluationAnswer, (shown, following))


@v1.get("/artifacts/{ref:path}")
def artifact(database: Source, ref: Ref) -> answers.ArtifactAnswer:
    """One artifact. What never changes is under `/manifest`, byte for byte."""
    with database.read() as connection:
        model = references.resolve(connection, ref)
        fields = {**dict(model.manifest), "id": model.id, "created": model.created, "bytes": model.size}
        fields["content"] = queries.content_of(connection, model.id)
        fields["names"] = queries.given_names(connection, model.id)
        fields["files"] = len(model.manifest.files)
        return answers.ArtifactAnswer.model_validate(fields)


@v1.get("/channels")
def channels(
    database: Source,
    team: Annotated[str | None, Query(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = None,
    limit: Limit = 50,
    cursor: Annotated[Word | None, Query(description="`next` of the page before")] = None,
) -> answers.Page[answers.ChannelAnswer]:
    """Channels by name."""
    with database.read() as connection:
        page = queries.channel_page(connection, limit=limit, after=cursor, team=team)
        return _page(answers.ChannelAnswer, page)


@v1.get("/channels/{team}/{name}")
def channel(database: Source, team: Part, name: Part) -> answers.ChannelAnswer:
    """Where a channel points."""
    with database.read() as connection:
        return answers.ChannelAnswer.model_validate(_channel(connection, team, name))


@v1.get("/channels/{team}/{name}/history")
def history(
    database: Source, team: Part, name: Part, limit: Limit = 50, cursor: Cursor = None
) -> answers.Page[answers.EventAnswer]:
    """A channel's moves, the latest first; their digests form a chain."""
    with database.read() as connection:
        row = _channel(connection, team, name)
        return _page(answers.EventAnswer, queries.history(connection, row["name"], limit=limit, after=cursor))


@v1.get("/gates")
def gates(
    database: Source,
    candidate: Annotated[Digest | None, Query(description="the whole id")] = None,
    baseline: Annotated[Digest | None, Query(description="the whole id")] = None,
    verdict: Verdict | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> answers.Page[answers.DecisionSummary]:
    """Gate decisions, newest first."""
    with database.read() as connection:
        filters = {"candidate": candidate, "baseline": baseline, "verdict": verdict}
        return _page(answers.DecisionSummary, queries.decisions(connection, filters, limit, cursor))


@v1.get("/gates/{id}")
def gate(database: Source, response: Response, id: Digest) -> answers.DecisionAnswer:
    """One gate decision with its policy and evidence."""
    with database.read() as connection:
        query = select(schema.gate_decisions).where(schema.gate_decisions.c.id == id)
        row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"no gate decision {id!r} in this registry; /v1/gates lists them")
        response.headers["Cache-Control"] = IMMUTABLE
        texts = {"policy": json.loads(row.policy), "evidence": json.loads(row.evidence)}
        return answers.DecisionAnswer.model_validate({**row._asdict(), **texts})


@v1.get("/endpoints")
def endpoints(
    database: Source,
    channel: Word | None = None,
    running: Annotated[bool | None, Query(description="true: not marked as stopped")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> answers.Page[answers.EndpointAnswer]:
    """Endpoints, newest first."""
    with database.read() as connection:
        page = queries.endpoint_page(connection, limit=limit, after=cursor, channel=channel, running=running)
        return _page(answers.EndpointAnswer, page)


@v1.get("/names")
def names(
    database: Source, name: Word | None = None, limit: Limit = 50, cursor: Cursor = None
) -> answers.Page[answers.GivenName]:
    """Names and versions, the latest given first."""
    with database.read() as connection:
        return _page(answers.GivenName, queries.name_page(connection, limit=limit, after=cursor, name=name))


@health.get("/healthz")
def healthz() -> answers.Health:
    """The server runs."""
    return answers.Health(status="ok")


@health.get("/readyz")
def readyz(database: Source) -> answers.Health:
    """The server can read the registry."""
    with database.read() as connection:
        connection.execute(select(schema.schema_version.c.version)).scalar_one()
        return answers.Health(status="ready")


def _resolved(connection: Connection, ref: str, response: Response) -> catalog.Artifact:
    """The artifact; what an artifact's own id names never changes, so it may be kept."""
    artifact = references.resolve(connection, ref)
    if ref == artifact.id:
        response.headers["Cache-Control"] = IMMUTABLE
    return artifact


def _channel(connection: Connection, team: str, name: str) -> queries.Columns:
    query = select(schema.channels).where(schema.channels.c.name == f"{team}/{name}")
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"no channel {team}/{name} in this registry; /v1/channels lists them")
    return row._asdict()


def _page(kind: type[answers.ApiModel], page: queries.Rows) -> Any:
    rows, following = page
    return answers.Page[kind](  # type: ignore[valid-type]
        items=[kind.model_validate(row) for row in rows], next=None if following is None else str(following)
    )
