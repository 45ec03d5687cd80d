"""Runs: under way and past, one with its stages and curves, its logs; stop it, or start it again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from flows.errors import Usage
from flows.run.journal import read_events
from flows.run.runs import RECIPE, PastRun, past_runs, process_of
from flows.run.runs import find as find_run
from flows.ui.changes import Form, changing
from flows.ui.pages import link_to, page, registry_of
from flows.ui.screens.artifact import curves
from flows.ui.screens.run_progress import memory_of, stages_of
from registry.errors import Conflict, NotFound

ROWS = 50
TAIL = 64_000
"""Bytes from the end of a log that a page begins with."""
LOOK = 0.5
"""Seconds between two looks at a log that is followed."""
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox allow-popups; frame-ancestors 'none'"


def _runs(request: Request) -> Response:
    before, shown = request.query_params.get("before"), []
    for run in past_runs(registry_of(request).home, None if before else ROWS + 1):
        if before is None or run.id < before:
            shown.append(run)
    older = link_to("/runs", before=shown[ROWS - 1].id) if len(shown) > ROWS else None
    return page(request, "runs.html", runs=shown[:ROWS], older=older, here=link_to("/runs", before=before))


def _run(request: Request) -> Response:
    run = _found(request)
    report = run.report or {}
    stages = stages_of(run)
    return page(
        request,
        "run.html",
        run=run,
        report=report,
        stages=stages,
        now=next((stage for stage in reversed(stages) if stage.state == "running"), None),
        logs=sorted(path.stem for path in (run.folder / "logs").glob("*.log")),
        stoppable=process_of(run) is not None,
        repeatable=(run.folder / RECIPE).is_file() and run.state != "running",
        memory=memory_of(process_of(run)),
        curve=bool(_history(run)),
    )


def _found(request: Request) -> PastRun:
    try:
        return find_run(registry_of(request).home, request.path_params["id"])
    except Usage as error:
        raise NotFound(str(error)) from None


def _history(run: PastRun) -> list[dict[str, float]]:
    """The losses of the training: of the report, or as far as a run under way has come."""
    if run.report and run.report.get("history"):
        history: list[dict[str, float]] = run.report["history"]
        return history
    rows, validation = [], None
    for event in read_events(run.folder):
        if event["event"] == "progress" and "loss" in event and event.get("unit") == "steps":
            row = {"step": event["done"], "loss": event["loss"]}
            if event.get("validation_loss") not in (None, validation):
                row["validation_loss"] = validation = event["validation_loss"]
            rows.append(row)
    return rows


def _curve(request: Request) -> Response:
    return JSONResponse(curves(_history(_found(request))))


def _report(request: Request) -> Response:
    run = _found(request)
    if run.page is None:
        raise NotFound(f"run {run.id} is {run.state} and has no report")
    headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-store"}
    return FileResponse(run.page, media_type="text/html; charset=utf-8", headers=headers)


def _log_path(request: Request) -> Path:
    run, name = _found(request), request.path_params["name"]
    path = run.folder / "logs" / f"{name}.log"
    if Path(name).name != name or not path.is_file():
        raise NotFound(f"run {run.id} has no log {name[:80]!r}")
    return path


def _log(request: Request) -> Response:
    path = _log_path(request)
    return page(request, "log.html", run=_found(request), name=path.stem, size=path.stat().st_size)


async def _follow(request: Request) -> Response:
    path = await anyio.to_thread.run_sync(_log_path, request)
    headers = {"Cache-Control": "no-store"}
    return StreamingResponse(_lines(request, path), media_type="text/event-stream", headers=headers)


async def _lines(request: Request, path: Path) -> AsyncIterator[str]:
    """The end of the log, then what is added to it, until its run is over or nobody listens."""
    at = max(0, path.stat().st_size - TAIL)
    while not request.app.state.changes.over and not await request.is_disconnected():
        over = (await anyio.to_thread.run_sync(_found, request)).state != "running"
        text, at = await anyio.to_thread.run_sync(_read_from, path, at)
        if text:
            yield f"event: lines\ndata: {json.dumps(text)}\n\n"
        elif over:
            yield "event: end\ndata: {}\n\n"
            return
        await asyncio.sleep(LOOK)


def _read_from(path: Path, at: int) -> tuple[str, int]:
    with path.open("rb") as file:
        file.seek(at)
        raw = file.read(TAIL)
    return raw.decode("utf-8", "replace"), at + len(raw)


def _stop(request: Request, _form: Form) -> Response:
    """As Ctrl-C: the stage under way is interrupted, and the same recipe goes on from there."""
    run = _found(request)
    named = process_of(run)
    process = named.find() if named else None
    if process is None:
        raise Conflict(f"run {run.id} is {run.state}, or runs on another host: there is nothing to stop here")
    process.send_signal(signal.SIGINT)
    return RedirectResponse(f"/runs/{run.id}", 303)


def _again(request: Request, _form: Form) -> Response:
    """Start a run of the same recipe, in a session of its own: it outlives this server."""
    registry, run = registry_of(request), _found(request)
    recipe = run.folder / RECIPE
    if run.state == "running" or not recipe.is_file():
        raise Conflict(f"run {run.id} is {run.state}; only one that ended, with its recipe, starts again")
    log = registry.home / "runs" / "started-from-the-web.log"
    with log.open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", str(recipe)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "TUNELINE_HOME": str(registry.home)},
        )
    return RedirectResponse("/runs", 303)


routes = [
    Route("/runs", _runs),
    Route("/runs/{id}", _run),
    Route("/runs/{id}/curve.json", _curve),
    Route("/runs/{id}/report", _report),
    Route("/runs/{id}/logs/{name}", _log),
    Route("/runs/{id}/logs/{name}/follow", _follow),
    changing("/runs/{id}/stop", _stop, "operator"),
    changing("/runs/{id}/again", _again, "operator"),
]
