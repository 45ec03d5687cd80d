"""A small application behind the guard, with a page, a stream of events and a change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from flows.ui.access.access import Access
from flows.ui.changes import Form, changing
from registry import Registry


class Make(Protocol):
    """The application; the arguments are those of `Access`."""

    def __call__(self, **access: Any) -> Starlette: ...


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(tmp_path / "home") as registry:
        yield registry


@pytest.fixture
def make(registry: Registry) -> Make:
    return lambda **access: _application(registry, Access(registry, **access))


def _application(registry: Registry, access: Access) -> Starlette:
    async def whoami(request: Request) -> Response:
        user = request.scope["state"]["user"]
        roles = [role for role in ("viewer", "operator", "admin") if access.may(request, role)]
        answer = {"name": user.name, "kind": user.kind, "may": roles, "csrf": access.csrf_token(request)}
        return JSONResponse(answer)

    async def events(request: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            for number in range(1000):
                yield f"data: {number}\n\n"
                await anyio.sleep(0.01)

        return StreamingResponse(stream(), media_type="text/event-stream")

    def change(request: Request, form: Form) -> Response:
        return JSONResponse(dict(form))

    app = Starlette(
        routes=[
            *(Route(path, whoami) for path in ("/", "/runs/{name}", "/runs.json")),
            Route("/events", events),
            Route("/alive", lambda _: PlainTextResponse("ok")),
            Route("/static/{name}", lambda _: PlainTextResponse("static")),
            changing("/move/{name}", change, "operator"),
            changing("/tenants", change, "admin"),
            *access.routes,
        ],
        middleware=[Middleware(access.middleware)],
    )
    app.state.registry, app.state.csrf_token, app.state.may = registry, access.csrf_token, access.may
    return app
