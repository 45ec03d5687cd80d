"""The log of what was changed about users and webhooks: append-only, one chain of digests for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from registry.artifacts import Record, canonical
from registry.db.access_tables import access_events
from registry.db.engine import now
from registry.errors import Corrupt
from registry.event_log import EventLog

Action = Literal["add", "role", "revoke"]
LOG = EventLog("log of", access_events.c.subject, access_events.c.number)


class AccessEvent(Record):
    """One change, and what it left; `digest` covers it and, through `previous_digest`, all before it."""

    subject: str
    """`user NAME` or `webhook ID`."""
    number: int
    action: Action
    state: dict[str, Any]
    who: str
    at: datetime
    previous_digest: str
    digest: str


def record(
    connection: Connection, subject: str, number: int, action: Action, state: Mapping[str, Any], who: str
) -> None:
    """Append the event of this number."""
    text = canonical(dict(state)).decode()
    LOG.append(connection, subject, number, {"action": action, "state": text, "who": who, "at": now()})


def checked(connection: Connection, standing: Mapping[str, tuple[int, Any]]) -> list[AccessEvent]:
    """All events of these subjects, oldest first; `standing` has the number of the last one, and its state.

    Raises Corrupt where an event was changed or lost, or a subject is not as its last event says.
    """
    events: list[AccessEvent] = []
    for subject, (changes, state) in standing.items():
        rows = LOG.verified(connection, subject)
        LOG.check_end(subject, rows[-1] if rows else None, changes)
        if json.loads(rows[-1].state) != state:
            raise Corrupt(
                f"{subject}: its row was changed without an event; its log says what it should hold"
            )
        events += [AccessEvent.of_row(row, state=json.loads(row.state)) for row in rows]
    return sorted(events, key=lambda event: event.at)
