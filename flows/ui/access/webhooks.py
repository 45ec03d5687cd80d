"""The screens of webhooks: who is told of what, and what came of it; a new secret is shown once."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.changes import Form, changing, require, who
from flows.ui.pages import page, registry_of
from registry.outbox import EVENTS

TOLD_OF = {
    "promotion": "a channel moved",
    "rollback": "a channel moved back",
    "gate": "a gate decided",
    "failed-run": "a step of a run failed",
    "drift": "an engine serves or answers something else than it should, or inputs or outcomes changed",
    "alert": "Alertmanager sent an alert",
    "night": "a night of schedules is over",
}
DELIVERIES_SHOWN = 50


def _webhooks(request: Request) -> Response:
    require(request, "admin")
    webhooks = registry_of(request).webhooks
    latest = webhooks.deliveries(limit=DELIVERIES_SHOWN)
    return page(
        request, "webhooks.html", webhooks=webhooks.ls(), deliveries=latest, due=_due, told_of=TOLD_OF
    )


def _webhook(request: Request) -> Response:
    require(request, "admin")
    return _shown(request, request.path_params["id"])


def _shown(request: Request, webhook_id: str, secret: str | None = None) -> Response:
    webhooks = registry_of(request).webhooks
    return page(
        request,
        "webhook.html",
        webhook=webhooks.get(webhook_id),
        secret=secret,
        deliveries=webhooks.deliveries(webhook_id, DELIVERIES_SHOWN),
        due=_due,
        told_of=TOLD_OF,
    )


def _due(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _add(request: Request, form: Form) -> Response:
    events = [event for event in EVENTS if f"event-{event}" in form]
    webhook, secret = registry_of(request).webhooks.add(
        form.get("url", "").strip(), events, who(request), "private" in form
    )
    return _shown(request, webhook.id, secret)


def _test(request: Request, _form: Form) -> Response:
    """Put a delivery into the outbox; who serves the pages delivers it within seconds."""
    webhook_id = request.path_params["id"]
    registry_of(request).webhooks.test(webhook_id, who(request))
    return RedirectResponse(f"/webhooks/{webhook_id}", 303)


def _remove(request: Request, _form: Form) -> Response:
    webhook_id = request.path_params["id"]
    registry_of(request).webhooks.remove(webhook_id, who(request))
    return RedirectResponse(f"/webhooks/{webhook_id}", 303)


routes = [
    Route("/webhooks", _webhooks),
    Route("/webhooks/{id}", _webhook),
    changing("/webhooks", _add, "admin"),
    changing("/webhooks/{id}/test", _test, "admin"),
    changing("/webhooks/{id}/remove", _remove, "admin"),
]
