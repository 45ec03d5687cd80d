"""The application: every screen's routes, and what stands around them.

app = application(registry)          # an ASGI application; `tuneline ui` serves it
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flows.ui import alerts, feeds, live, notices, static_files
from flows.ui.access import users, webhooks
from flows.ui.access.access import Access
from flows.ui.headers import SecurityHeaders
from flows.ui.pages import refusal
from flows.ui.screens import (
    artifact,
    artifacts,
    channels,
    compare,
    engines,
    fleet,
    gates,
    health,
    rows,
    runs,
    schedules,
    store,
    tenants,
    verification,
)
from registry import Registry
from registry.errors import NotFound, RegistryError

SCREENS = (
    fleet,
    runs,
    artifacts,
    artifact,
    rows,
    verification,
    compare,
    channels,
    gates,
    tenants,
    engines,
    schedules,
    store,
    users,
    webhooks,
    health,
    live,
    alerts,
    feeds,
    static_files,
)
THREADS = 8
"""Requests that read at once; below the number of database connections that SQLAlchemy keeps."""


def application(registry: Registry, access: Access) -> Starlette:
    """The web interface of this registry, for whom `access` lets in."""
    app = Starlette(
        routes=[route for screen in SCREENS for route in screen.routes]
        + [*access.routes, Route("/alive", _alive)],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(GZipMiddleware, minimum_size=600, compresslevel=4),
            Middleware(access.middleware),
        ],
        exception_handlers={
            HTTPException: _on_http,
            NotFound: _on_not_found,
            RegistryError: _on_registry,
            Exception: _on_defect,
        },
        lifespan=_lifespan,
    )
    app.state.registry = registry
    app.state.alerts = alerts.UnderWay(registry.home)
    app.state.verifications = verification.BackgroundVerifications(registry)
    look = live.Look(registry)
    app.state.changes = live.Changes(look, app.state.verifications.progress)
    app.state.fleet = fleet.Rendered(look)
    app.state.examination = health.Examination()
    app.state.csrf_token, app.state.may = access.csrf_token, access.may
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    async with app.state.changes, notices.telling(app.state.registry):
        yield


async def _alive(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


_NOWHERE = "Check the address, or search for the artifact by its name or id."


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "There is no such page", 405: "This page is read-only"}
    title = titles.get(error.status_code, error.detail)
    message = _NOWHERE if error.detail == HTTPException(404).detail else error.detail
    answer = refusal(request, error.status_code, title, message)
    answer.headers.update(error.headers or {})
    return answer


def _on_not_found(request: Request, error: Exception) -> Response:
    return refusal(request, 404, "Not found", str(error))


def _on_registry(request: Request, error: Exception) -> Response:
    status = 409 if request.method == "POST" else 503
    return refusal(request, status, "The registry refused this", str(error))


def _on_defect(request: Request, _error: Exception) -> Response:
    message = "This is a defect. The log of `tuneline ui` shows where; please report it."
    return refusal(request, 500, "Something broke", message)
