"""The registry over HTTP, for dashboards and other services: JSON that is read, and one address that starts a
schedule with its own token.

    app = application(registry)          # an ASGI application; `tuneline api` serves it

Each request reads in one transaction, so it sees a publication whole or not at all, and it takes no lock that
a writer would wait for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from registry.api import models as answers
from registry.api.middleware import (
    TRIGGER,
    Conditional,
    TokenGuard,
    parameter_problems,
    problem,
    registry_problem,
)
from registry.api.routes import health, v1
from registry.artifacts import JsonObject
from registry.errors import RegistryError
from registry.registry import Registry

THREADS = 8
"""Requests that read at once; below the number of database connections that SQLAlchemy keeps."""


def application(registry: Registry, token: str | None = None) -> FastAPI:
    """The API of this registry. With a `token`, or users, every answer but the server's health needs one."""
    app = FastAPI(
        title="Tuneline registry",
        version="1",
        summary="Artifacts, lineage, gate decisions, channels and endpoints; read-only.",
        docs_url=None,  # its pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_few_threads,
        responses=_PROBLEMS,
    )
    app.state.database = registry.database
    needs_token = token is not None or registry.users.exist()
    secured = [Security(HTTPBearer(auto_error=False))] if needs_token else []
    app.include_router(v1, dependencies=[*secured, Depends(_known_parameters)])
    app.add_route(TRIGGER, _trigger(registry), methods=["POST"], include_in_schema=False)
    app.include_router(health, dependencies=[Depends(_known_parameters)])
    app.add_exception_handler(RequestValidationError, _on_parameters)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RegistryError, lambda _, error: registry_problem(error))
    app.add_exception_handler(Exception, _on_defect)
    app.add_middleware(TokenGuard, token=token, users=registry.users)
    app.add_middleware(Conditional)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def _trigger(registry: Registry) -> Callable[[Request], Awaitable[Response]]:
    """What a schedule's webhook asks: nothing but the token says which schedule, and nothing else is read."""

    async def trigger(request: Request) -> Response:
        return await anyio.to_thread.run_sync(asked, request)

    def asked(request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        schedule = registry.schedules.of_token(token.strip()) if scheme.lower() == "bearer" else None
        if schedule is None:
            message = "expected the header `Authorization: Bearer TOKEN` with a schedule's token"
            return problem(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
        occasion = registry.occasions.ask(schedule.name, "webhook", "asked for with its token")
        return JSONResponse({"schedule": schedule.name, "occasion": occasion.id}, 202)

    return trigger


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for code, text in {
        401: "The token is missing or wrong",
        404: "Nothing of that name",
        421: "The Host header does not name this machine, and no token was sent",
        422: "A parameter is unknown, repeated or not what it must be",
        503: "The registry cannot be read at present",
    }.items()
}


@asynccontextmanager
async def _few_threads(_app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


async def _known_parameters(request: Request) -> None:
    """Refuse parameters that the route does not know, or that are given twice; they would do nothing."""
    route = request.scope["route"]
    parameters = {
        parameter["name"]
        for parameter in request.app.openapi()["paths"][route.path_format]["get"].get("parameters", [])
        if parameter["in"] == "query"
    }
    names = [name for name, _ in request.query_params.multi_items()]
    expected = f"expected {', '.join(sorted(parameters)) or 'none'}"
    wrong = [
        {
            "parameter": name[:80],
            "detail": f"unknown parameter; {expected}" if name not in parameters else "given twice",
        }
        for name in dict.fromkeys(names)
        if name not in parameters or names.count(name) > 1
    ]
    if wrong:
        raise RequestValidationError(
            [{"loc": ("query", w["parameter"]), "msg": w["detail"], "type": "parameter"} for w in wrong]
        )


def _on_parameters(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = parameter_problems(error.errors())
    message = "; ".join(f"{refused['parameter']}: {refused['detail']}" for refused in problems)
    return problem(422, "parameter", message, errors=problems)


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed, why = "GET, HEAD", "this API is read-only"
        if request.url.path == TRIGGER:
            allowed, why = "POST", "this path only takes POST, which runs a schedule"
        detail = f"{request.method[:20]} is not allowed: {why}"
        return problem(405, "method-not-allowed", detail, headers={"Allow": allowed})
    if error.status_code == 404:
        return problem(404, "not-found", "no such path; /openapi.json lists them")
    return problem(error.status_code, "http", str(error.detail), headers=error.headers)


def _on_defect(_request: Request, _error: Exception) -> Response:
    return problem(500, "defect", "this is a defect; the log of `tuneline api` shows where, please report it")


def _described(app: FastAPI) -> JsonObject:
    """OpenAPI, with what FastAPI cannot derive: the shape of problems, entity tags and 304."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        document["components"]["schemas"]["Problem"] = answers.Problem.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        for path in document["paths"].values():
            path["get"]["responses"]["200"]["headers"] = _HEADERS
            path["get"]["responses"]["304"] = {
                "description": "Not changed since the answer that If-None-Match names"
            }
        app.openapi_schema = document
    return app.openapi_schema


_HEADERS = {
    "ETag": {"description": "strong entity tag", "required": True, "schema": {"type": "string"}},
    "Cache-Control": {
        "description": "immutable for what a digest names, else no-cache",
        "required": True,
        "schema": {"type": "string"},
    },
}
