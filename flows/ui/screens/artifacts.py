"""The list of artifacts: filters in the address, newest first, page by page."""

from __future__ import annotations

import re
from typing import Any, get_args

from sqlalchemy import Select, or_, select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.pages import link_to, page, registry_of
from flows.ui.screens.fleet import names_of
from registry.artifacts import Kind
from registry.db.tables import artifacts, names
from registry.quantization import STORED

ROWS = 50
_PREFIX = re.compile("[0-9a-f]{6,64}")
_LISTED = (
    "sequence",
    "id",
    "kind",
    "stage",
    "created",
    "bytes",
    "base_source",
    "base_revision",
    "quant_method",
)


def _artifacts(request: Request) -> Response:
    parameters = request.query_params
    text, kind, method = (parameters.get(key, "").strip() for key in ("q", "kind", "method"))
    before = sequence_before(request)
    query = select(*(artifacts.c[column] for column in _LISTED)).order_by(artifacts.c.sequence.desc())
    if kind:
        query = query.where(artifacts.c.kind == kind)
    if method:
        query = query.where(artifacts.c.quant_method == method)
    if text:
        query = _matching(query, text)
    if before is not None:
        query = query.where(artifacts.c.sequence < before)
    with registry_of(request).database.read() as connection:
        rows = connection.execute(query.limit(ROWS + 1)).all()
        called = names_of(connection, [row.id for row in rows])
    if text and len(rows) == 1 and _PREFIX.fullmatch(text) and before is None:
        return RedirectResponse(f"/artifacts/{rows[0].id}", 303)
    older = None
    if len(rows) > ROWS:
        older = link_to("/artifacts", q=text, kind=kind, method=method, before=rows[ROWS - 1].sequence)
    return page(
        request,
        "artifacts.html",
        rows=rows[:ROWS],
        called=called,
        older=older,
        kinds=get_args(Kind),
        methods=[method for method in STORED if method != "none"],
        filters={"q": text, "kind": kind, "method": method},
        here=link_to("/artifacts", q=text, kind=kind, method=method, before=before),
    )


def _matching(query: Select[Any], text: str) -> Select[Any]:
    """Those whose id begins so, or whose name, stage or base holds the text."""
    like = {"autoescape": True}
    named = select(names.c.artifact_id).where(names.c.name.icontains(text.partition("@")[0], **like))
    conditions = [
        artifacts.c.stage == text.lower(),
        artifacts.c.base_source.icontains(text, **like),
        artifacts.c.id.in_(named),
    ]
    if _PREFIX.fullmatch(text):
        conditions.append((artifacts.c.id >= text) & (artifacts.c.id < text + "g"))
    return query.where(or_(*conditions))


def sequence_before(request: Request) -> int | None:
    """The `before` of the address: what the list goes on from."""
    before = request.query_params.get("before")
    if before is None:
        return None
    if not before.isascii() or not before.isdigit() or len(before) > 9:
        raise HTTPException(404, "this page of the list does not exist; start at its beginning")
    return int(before)


routes = [Route("/artifacts", _artifacts)]
