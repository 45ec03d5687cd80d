"""Schedules: what is retrained by itself, when next, and how it went; and a night on one page."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.retraining.look import coming
from flows.retraining.night import night_of
from flows.retraining.words import limits_in_words, when, whom
from flows.ui.changes import Form, changing, who
from flows.ui.pages import link_to, page, registry_of
from registry.schedules.runs import ScheduledRun
from registry.schedules.schedules import Schedule

RUNS = 20


class Shown(NamedTuple):
    """A schedule in words, with its latest runs."""

    schedule: Schedule
    whom: str
    when: str
    limits: list[str]
    next: datetime | None
    runs: list[ScheduledRun]


def _schedules(request: Request) -> Response:
    registry, now = registry_of(request), datetime.now(UTC)
    schedules = [
        Shown(
            schedule,
            whom(schedule),
            when(schedule),
            limits_in_words(schedule.definition.limits),
            None if schedule.paused else min(coming(schedule, now), default=None),
            registry.scheduled_runs.history(schedule.name, limit=RUNS),
        )
        for schedule in registry.schedules.ls()
    ]
    address = os.environ.get("PREFECT_API_URL")
    prefect = address.rstrip("/").removesuffix("/api") if address else None
    zones = sorted({schedule.schedule.definition.zone for schedule in schedules})
    nights = [(zone, link_to("/schedules/night", zone=zone)) for zone in zones]
    return page(request, "schedules.html", schedules=schedules, prefect=prefect, nights=nights)


def _night(request: Request) -> Response:
    registry = registry_of(request)
    zones = sorted({schedule.definition.zone for schedule in registry.schedules.ls()}) or ["UTC"]
    zone = request.query_params.get("zone") or zones[0]
    if zone not in zones:
        raise HTTPException(404, "no schedule has this time zone")
    try:
        at = datetime.fromisoformat(request.query_params.get("at", datetime.now(UTC).isoformat()))
        night = night_of(registry, zone, at if at.tzinfo else at.replace(tzinfo=UTC))
        before = link_to("/schedules/night", zone=zone, at=(night.begin - timedelta(hours=1)).isoformat())
    except (ValueError, OverflowError):
        raise HTTPException(404, "at: expected a time, such as 2026-11-29T03:00") from None
    return page(request, "night.html", night=night, before=before)


def _pause(request: Request, form: Form) -> Response:
    name = request.path_params["name"]
    registry_of(request).schedules.pause(name, form.get("paused") == "yes", who(request))
    return RedirectResponse("/schedules", 303)


def _ask(request: Request, _form: Form) -> Response:
    """Ask for it now: the next look at the schedule gives it its runs."""
    registry = registry_of(request)
    schedule = registry.schedules.get(request.path_params["name"])
    registry.occasions.ask(schedule.name, "manual", f"asked for by {who(request)} on the web")
    return RedirectResponse("/schedules", 303)


routes = [
    Route("/schedules", _schedules),
    Route("/schedules/night", _night),
    changing("/schedules/{name}/pause", _pause, "operator"),
    changing("/schedules/{name}/ask", _ask, "operator"),
]
