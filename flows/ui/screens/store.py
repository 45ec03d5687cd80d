"""The store: what it holds, what a collection would free, and freeing it."""

from __future__ import annotations

import shutil

from sqlalchemy import func, select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.changes import Form, changing
from flows.ui.pages import page, registry_of
from flows.ui.screens.fleet import names_of
from registry.db.tables import artifacts
from registry.gc.reachability import RetentionPolicy
from registry.gc.report import GcReport

DAYS = 14
SHOWN = 200


def _store(request: Request) -> Response:
    registry, days = registry_of(request), _days(request.query_params.get("days", str(DAYS)))
    by_kind = select(
        artifacts.c.kind, func.count().label("count"), func.sum(artifacts.c.bytes).label("bytes")
    )
    with registry.database.read() as connection:
        kinds = connection.execute(by_kind.group_by(artifacts.c.kind).order_by(artifacts.c.kind)).all()
    report: GcReport | None = None
    if "plan" in request.query_params:
        report = registry.collect(RetentionPolicy(days=days), delete=False)
    with registry.database.read() as connection:
        called = names_of(
            connection, [artifact.id for artifact in report.artifacts[:SHOWN]] if report else []
        )
    return page(
        request,
        "store.html",
        kinds=kinds,
        disk=shutil.disk_usage(registry.home),
        days=days,
        report=report,
        called=called,
        shown=SHOWN,
    )


def _free(request: Request, form: Form) -> Response:
    """What the page showed is planned again: only what nothing needs now is freed."""
    days = _days(form.get("days", str(DAYS)))
    registry_of(request).collect(RetentionPolicy(days=days), delete=True)
    return RedirectResponse(f"/store?plan=1&days={days:g}", 303)


def _days(text: str) -> float:
    if not text.isascii() or not text.replace(".", "", 1).isdigit() or not float(text) <= 36_500:
        raise HTTPException(422, f"days: expected a number from 0 to 36500, not {text[:20]!r}")
    return float(text)


routes = [Route("/store", _store), changing("/store/free", _free, "admin")]
