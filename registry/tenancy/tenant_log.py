"""The log of what was changed about tenants and their keys: append-only, one chain of digests per tenant.

Each event holds the tenant as the event left it, the digests of its live keys and of its salt included, so
that also a tenant or a key that was changed without an event is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, TypedDict

from sqlalchemy import Connection, Row, Select, select

from registry.artifacts import Record, canonical, digest
from registry.db.engine import now
from registry.db.serving_tables import tenant_events, tenant_keys, tenants
from registry.errors import Corrupt
from registry.event_log import EventLog

Action = Literal["add", "change", "rotate", "revoke"]
LOG = EventLog("log of tenant", tenant_events.c.tenant, tenant_events.c.number)


class TenantEvent(Record):
    """One change, and the tenant as it left it; `keys` maps the id of each live key to its end, if any.

    `digest` covers the event and, through `previous_digest`, all of this tenant's before it.
    """

    tenant: str
    number: int
    action: Action
    channel: str
    limits: dict[str, int | None]
    pinned: bool
    keys: dict[str, datetime | None]
    who: str
    at: datetime
    previous_digest: str
    digest: str


class _LiveKey(TypedDict):
    sha256: str
    expires: str | None


class _TenantState(TypedDict):
    channel: str
    limits: dict[str, int | None]
    pinned: bool
    salt: str
    """A digest of it."""
    keys: dict[str, _LiveKey]


def record(connection: Connection, name: str, action: Action, who: str) -> None:
    """Append the event that led to the tenant as it is now."""
    row = connection.execute(select(tenants).where(tenants.c.name == name)).one()
    at = now()
    live = connection.execute(live_keys(at).where(tenant_keys.c.tenant == name))
    event = {"action": action, "state": canonical(_state(row, live)).decode(), "who": who, "at": at}
    LOG.append(connection, name, row.changes, event)


def checked(connection: Connection, name: str | None) -> list[TenantEvent]:
    """The events of the tenant, or of all, oldest first; raises Corrupt where something does not fit them."""
    at = now()
    standing, live = select(tenants), live_keys(at)
    if name is not None:
        standing = standing.where(tenants.c.name == name)
        live = live.where(tenant_keys.c.tenant == name)
    rows = LOG.verified(connection, name)
    latest = {row.tenant: row for row in rows}
    keys: dict[str, list[Row[Any]]] = {}
    for key in connection.execute(live):
        keys.setdefault(key.tenant, []).append(key)
    for tenant in connection.execute(standing):
        _check_end(tenant, keys.get(tenant.name, []), latest.get(tenant.name), at)
    return [_event(row) for row in rows]


def _check_end(tenant: Row[Any], keys: list[Row[Any]], last: Row[Any] | None, at: str) -> None:
    LOG.check_end(tenant.name, last, tenant.changes)
    assert last is not None, "a tenant has at least the event that added it"
    recorded: _TenantState = json.loads(last.state)
    recorded["keys"] = {
        key_id: key
        for key_id, key in recorded["keys"].items()
        if key["expires"] is None or key["expires"] > at
    }
    if _state(tenant, keys) != recorded:
        raise Corrupt(
            f"tenant {tenant.name}: its row, or that of one of its keys, was changed without an event; its "
            "log says what they should hold"
        )


def live_keys(at: str) -> Select[Any]:
    """The rows of `tenant_keys` that open something at that time."""
    end = tenant_keys.c.expires.is_(None) | (tenant_keys.c.expires > at)
    return select(tenant_keys).where(tenant_keys.c.revoked.is_(None) & end)


def _state(tenant: Row[Any], keys: Iterable[Row[Any]]) -> _TenantState:
    limits = {
        name: getattr(tenant, name) for name in ("requests_per_minute", "concurrency", "tokens_per_day")
    }
    return {
        "channel": tenant.channel,
        "limits": limits,
        "pinned": bool(tenant.pinned),
        "salt": digest([tenant.name, tenant.salt]),
        "keys": {key.id: {"sha256": key.sha256, "expires": key.expires} for key in keys},
    }


def _event(row: Row[Any]) -> TenantEvent:
    state: _TenantState = json.loads(row.state)
    return TenantEvent.of_row(
        row,
        **{field: state[field] for field in ("channel", "limits", "pinned")},
        keys={key_id: key["expires"] for key_id, key in state["keys"].items()},
    )
