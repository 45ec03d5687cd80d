"""What webhooks are to be told, written in the transaction of the change itself: both happen, or neither."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Connection, insert, select

from registry.artifacts import canonical, digest
from registry.db.access_tables import webhook_deliveries, webhooks
from registry.db.engine import now

Event = Literal["promotion", "rollback", "gate", "failed-run", "drift", "alert", "night", "test"]
EVENTS: tuple[Event, ...] = tuple(event for event in get_args(Event) if event != "test")
"""What a webhook can ask for; `test` is sent on request only."""


def put(
    connection: Connection,
    event: Event,
    about: Mapping[str, Any],
    only: str | None = None,
    once: str | None = None,
) -> int:
    """Write `event` down for each webhook that asked for it (or for the webhook `only`); returns how many.

    `about` is finite JSON and reaches whoever the webhook belongs to: it holds no secrets, no data. `once`
    names what happened, where several may notice it, or one more than once: it is told once.
    """
    live = select(webhooks).where(webhooks.c.removed.is_(None)).order_by(webhooks.c.created)
    rows = [
        row
        for row in connection.execute(live)
        if (row.id == only if only is not None else event in json.loads(row.events))
    ]
    at, count = now(), 0
    for row in rows:
        delivery = secrets.token_hex(16) if once is None else digest([row.id, event, once])[:32]
        known = select(webhook_deliveries.c.id).where(webhook_deliveries.c.id == delivery)
        if once is not None and connection.execute(known).first() is not None:
            continue
        count += 1
        body = {"id": delivery, "event": event, "at": at, "about": dict(about)}
        connection.execute(
            insert(webhook_deliveries),
            {
                "id": delivery,
                "webhook": row.id,
                "event": event,
                "body": canonical(body).decode(),
                "state": "waiting",
                "attempts": 0,
                "due": datetime.fromisoformat(at).timestamp(),
                "created": at,
            },
        )
    return count
