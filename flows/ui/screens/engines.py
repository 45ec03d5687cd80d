"""Engines: what runs, what it serves, how it does; and ending one."""

from __future__ import annotations

import contextlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.changes import Form, changing
from flows.ui.pages import page, registry_of
from flows.ui.screens.engine_numbers import numbers_of, traffic
from registry.errors import Conflict
from serving import standalone

SHOWN = 100
TAIL = 16_000
"""Bytes of a log's end."""


def _engines(request: Request) -> Response:
    registry = registry_of(request)
    running = [(row, row.process.is_alive()) for row in registry.endpoints.ls(running_only=True)]
    past = [row for row in registry.endpoints.ls() if row.stopped is not None][:SHOWN]
    counted = traffic(row for row, alive in running if alive)
    return page(request, "engines.html", running=running, past=past, counted=counted)


def _engine(request: Request) -> Response:
    registry = registry_of(request)
    row = registry.endpoints.get(request.path_params["id"])
    channel = registry.channels.get(row.channel) if row.channel else None
    alive = row.stopped is None and row.process.is_alive()
    return page(
        request,
        "engine.html",
        row=row,
        alive=alive,
        drift=channel is not None and channel.artifact_id != row.artifact_id and row.stopped is None,
        numbers=numbers_of(row) if alive else None,
        log=_tail(row.log),
    )


def _tail(log: Path) -> str | None:
    """The end of an engine's log, which holds no prompt; None where it is not on this machine."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL))
        return file.read().decode("utf-8", "replace")
    return None


def _stop(request: Request, _form: Form) -> Response:
    registry = registry_of(request)
    row = registry.endpoints.get(request.path_params["id"])
    if row.in_gateway and row.process.is_alive():
        raise Conflict(
            f"endpoint {row.id} is an engine of a gateway, which answers tenants. To do without this engine, "
            "take it out of the gateway's serve.yaml and start that again; to end the whole gateway: "
            f"tuneline endpoints stop {row.id} --gateway"
        )
    standalone.stop(row)
    registry.endpoints.mark_stopped(row.id)
    return RedirectResponse(f"/engines/{row.id}", 303)


routes = [
    Route("/engines", _engines),
    Route("/engines/{id}", _engine),
    changing("/engines/{id}/stop", _stop, "operator"),
]
