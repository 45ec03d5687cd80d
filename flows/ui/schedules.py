"""Schedules: the Prefect deployments that retrain, when they run next, and how they went."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.ui.pages import page

ANSWER_SECONDS = 2.0
RUNS = 20


class Scheduled(NamedTuple):
    """A deployment of Prefect with its schedules in words, and its runs: the next and the past ones."""

    name: str
    paused: bool
    schedules: list[str]
    parameters: dict[str, Any]
    coming: list[dict[str, Any]]
    past: list[dict[str, Any]]


def _schedules(request: Request) -> Response:
    address = os.environ.get("PREFECT_API_URL")
    scheduled: list[Scheduled] = []
    problem = None
    if address:
        try:
            scheduled = _read(address.rstrip("/"))
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            problem = f"Prefect at {address} does not answer as expected: {type(error).__name__}: {error}"
    return page(
        request,
        "schedules.html",
        address=address,
        scheduled=scheduled,
        problem=problem,
        prefect=_page(address),
    )


def _page(address: str | None) -> str | None:
    """Where Prefect's own pages are, beside its API."""
    return address.rstrip("/").removesuffix("/api") if address else None


def _read(address: str) -> list[Scheduled]:
    with httpx.Client(base_url=address, timeout=ANSWER_SECONDS) as client:
        deployments = _asked(client, "/deployments/filter", {"limit": 50})
        return [_scheduled(client, deployment) for deployment in deployments]


def _scheduled(client: httpx.Client, deployment: dict[str, Any]) -> Scheduled:
    mine = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    now = datetime.now(UTC).isoformat()
    after = {"expected_start_time": {"after_": now}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    before = {"start_time": {"before_": now}}
    coming = {"flow_runs": after, "sort": "EXPECTED_START_TIME_ASC", "limit": 3, **mine}
    past = {"flow_runs": before, "sort": "START_TIME_DESC", "limit": RUNS, **mine}
    return Scheduled(
        deployment["name"],
        bool(deployment.get("paused")),
        [_words(entry) for entry in deployment.get("schedules") or []],
        deployment.get("parameters") or {},
        _asked(client, "/flow_runs/filter", coming),
        _asked(client, "/flow_runs/filter", past),
    )


def _asked(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post(path, json=body)
    answer.raise_for_status()
    rows: list[dict[str, Any]] = answer.json()
    return rows


def _words(entry: dict[str, Any]) -> str:
    schedule = entry["schedule"]
    text = schedule.get("cron") or schedule.get("rrule") or f"every {schedule.get('interval'):g} s"
    zone = schedule.get("timezone") or "UTC"
    return f"{text} ({zone}){'' if entry.get('active') else ', switched off'}"


routes = [Route("/schedules", _schedules)]
