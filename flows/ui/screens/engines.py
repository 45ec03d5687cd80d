"""Engines: what runs, what it serves, how it does; and ending one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.changes import Form, changing
from flows.ui.pages import page, registry_of
from registry.errors import Conflict
from registry.tenancy.endpoints import Endpoint
from serving import standalone

SHOWN = 100
ANSWER_SECONDS = 1.0
"""For an engine's own metrics; a page does not wait longer for an engine that hangs."""
TAIL = 16_000
"""Bytes of a log's end."""


class Numbers(NamedTuple):
    """What an engine says of itself: name, labels in words, value; and why it says nothing."""

    rows: list[tuple[str, str, float]]
    problem: str | None


def _engines(request: Request) -> Response:
    registry = registry_of(request)
    running = [(row, row.process.is_alive()) for row in registry.endpoints.ls(running_only=True)]
    past = [row for row in registry.endpoints.ls() if row.stopped is not None][:SHOWN]
    return page(request, "engines.html", running=running, past=past)


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
        numbers=_numbers(row) if alive and not row.in_gateway else None,
        log=_tail(row.log),
    )


def _numbers(row: Endpoint) -> Numbers:
    """The engine's metrics, where it has an address that gives them."""
    try:
        answer = httpx.get(f"{row.url}/metrics", timeout=ANSWER_SECONDS)
    except httpx.HTTPError as error:
        return Numbers([], f"{row.url}/metrics does not answer: {type(error).__name__}")
    if answer.status_code != 200:
        return Numbers([], None)
    rows = []
    with contextlib.suppress(ValueError):
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if not sample.name.endswith(("_bucket", "_created")):
                    labels = ", ".join(f"{key} {value}" for key, value in sorted(sample.labels.items()))
                    rows.append((sample.name, labels, sample.value))
    return Numbers(rows, None)


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
