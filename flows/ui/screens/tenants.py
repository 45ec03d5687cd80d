"""Tenants: who may ask, how much of it is used, and their keys; a new key is shown once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.changes import Form, changing, who
from flows.ui.pages import page, registry_of
from registry.db.serving_tables import budgets
from registry.tenancy.tenants import TenantLimits

LIMITS = {
    "requests_per_minute": "requests per minute",
    "concurrency": "requests at once",
    "tokens_per_day": "tokens per day (UTC)",
}
AUDIT_SHOWN = 30


def _tenants(request: Request) -> Response:
    registry = registry_of(request)
    state, now = registry.serving_state(), datetime.now(UTC)
    keys: dict[str, int] = {}
    for key in state.keys.values():
        if key.live(now):
            keys[key.tenant] = keys.get(key.tenant, 0) + 1
    today = select(budgets).where(budgets.c.day == f"{now:%Y-%m-%d}")
    with registry.database.read() as connection:
        used = {row.tenant: row.used + row.reserved for row in connection.execute(today)}
    tenants = list(state.tenants.values())
    return page(request, "tenants.html", tenants=tenants, keys=keys, used=used, channels=list(state.channels))


def _tenant(request: Request) -> Response:
    return _shown(request, request.path_params["name"])


def _shown(request: Request, name: str, new_key: str | None = None) -> Response:
    registry, now = registry_of(request), datetime.now(UTC)
    tenant = registry.tenants.get(name)
    used, reserved = registry.budgets.spent(name, f"{now:%Y-%m-%d}")
    return page(
        request,
        "tenant.html",
        tenant=tenant,
        keys=[(key, key.live(now)) for key in reversed(registry.tenants.keys(name))],
        used=used,
        reserved=reserved,
        audit=list(reversed(registry.tenants.audit(name)))[:AUDIT_SHOWN],
        new_key=new_key,
        limits=LIMITS,
    )


def _add(request: Request, form: Form) -> Response:
    name = form.get("name", "").strip()
    _, _, key = registry_of(request).tenants.add(
        name, form.get("channel", "").strip(), who(request), _limits(form)
    )
    return _shown(request, name, key)


def _change(request: Request, form: Form) -> Response:
    name = request.path_params["name"]
    registry_of(request).tenants.change(
        name, who(request), form.get("channel", "").strip() or None, _limits(form), "pinned" in form
    )
    return RedirectResponse(f"/tenants/{name}", 303)


def _rotate(request: Request, form: Form) -> Response:
    name, hours = request.path_params["name"], _number(form, "overlap", "hours that the old keys go on") or 0
    _, key = registry_of(request).tenants.rotate(name, who(request), timedelta(hours=hours))
    return _shown(request, name, key)


def _revoke(request: Request, form: Form) -> Response:
    name = request.path_params["name"]
    registry_of(request).tenants.revoke(name, who(request), form.get("key") or None)
    return RedirectResponse(f"/tenants/{name}", 303)


def _limits(form: Form) -> TenantLimits:
    return TenantLimits(**{name: _number(form, name, text) for name, text in LIMITS.items()})


def _number(form: Form, name: str, text: str) -> int | None:
    digits = form.get(name, "").strip().replace(",", "")
    if not digits:
        return None
    if not digits.isascii() or not digits.isdigit() or len(digits) > 15:
        raise HTTPException(
            422, f"{text}: expected a whole number, or nothing for no limit; not {digits[:20]!r}"
        )
    return int(digits)


routes = [
    Route("/tenants", _tenants),
    Route("/tenants/{name}", _tenant),
    changing("/tenants", _add, "admin"),
    changing("/tenants/{name}", _change, "admin"),
    changing("/tenants/{name}/rotate", _rotate, "admin"),
    changing("/tenants/{name}/revoke", _revoke, "admin"),
]
