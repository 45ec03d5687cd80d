"""Webhooks: addresses that are told of changes. Adding and removing one is in a chained log.

What is told is in an outbox (`registry.outbox`), written with the change; `registry.access.delivery` empties
it. The log of deliveries keeps what came of each, and not its body.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypedDict

from sqlalchemy import Connection, Row, insert, select, update

from registry import outbox
from registry.access import access_log
from registry.access.access_log import AccessEvent
from registry.access.addresses import BLOCK, check_url
from registry.artifacts import Record
from registry.channels.channels import check_text
from registry.db.access_tables import webhook_deliveries, webhooks
from registry.db.engine import Database, now
from registry.errors import InvalidWebhook, NotFound
from registry.outbox import EVENTS, Event


class Webhook(Record):
    """An address, and which events it is told of; `private`: it may be on this machine or its network."""

    id: str
    url: str
    events: tuple[str, ...]
    private: bool
    created: datetime
    removed: datetime | None


class Delivery(Record):
    """What came of telling a webhook; `answer` is the HTTP status of the last attempt, `due` the next one's
    time while it is `waiting` (seconds since the epoch)."""

    id: str
    webhook: str
    event: str
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    due: float
    answer: int | None
    error: str | None
    created: datetime
    finished: datetime | None


class Claimed(NamedTuple):
    """A delivery to be attempted now, by whoever claimed it."""

    id: str
    event: str
    body: str
    attempts: int
    """That were made before."""
    url: str
    secret: str
    private: bool


class _WebhookState(TypedDict):
    url: str
    events: list[str]
    private: bool
    removed: str | None


class Webhooks:
    """The webhooks of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, url: str, events: Sequence[str], who: str, private: bool = False
    ) -> tuple[Webhook, str | None]:
        """A new webhook and the secret that its deliveries are signed with: show it once. A block has none.

        Raises InvalidWebhook for an address that is neither http(s) nor a block, has a user or a password, or
        is private without `private`, and for events that there are not.
        """
        check_text("the name of whoever adds the webhook", who)
        check_url(url, private)
        unknown = sorted(set(events) - set(EVENTS))
        if unknown or not events:
            names = ", ".join(unknown)[:80] or "none"
            raise InvalidWebhook(f"events {names}: expected some of {', '.join(EVENTS)}")
        webhook_id, secret = secrets.token_hex(6), secrets.token_hex(32)
        chosen = [event for event in EVENTS if event in events]
        row = {"id": webhook_id, "url": url, "events": json.dumps(chosen), "private": int(private)}
        with self._database.write() as connection:
            values = {**row, "secret": secret, "created": now(), "changes": 1}
            connection.execute(insert(webhooks), values)
            _record(connection, webhook_id, "add", who)
            return _webhook(_existing(connection, webhook_id)), None if url.startswith(BLOCK) else secret

    def get(self, webhook_id: str) -> Webhook:
        """The webhook of this id, removed or not. Raises NotFound."""
        with self._database.read() as connection:
            return _webhook(_existing(connection, webhook_id))

    def ls(self) -> list[Webhook]:
        """Those in force, oldest first."""
        query = select(webhooks).where(webhooks.c.removed.is_(None)).order_by(webhooks.c.created)
        with self._database.read() as connection:
            return [_webhook(row) for row in connection.execute(query)]

    def remove(self, webhook_id: str, who: str) -> None:
        """Tell it nothing from now on; what waits for it is given up. Raises NotFound."""
        check_text("the name of whoever removes the webhook", who)
        with self._database.write() as connection:
            row = _existing(connection, webhook_id)
            if row.removed is not None:
                raise NotFound(f"webhook {webhook_id} was removed {row.removed[:19]} UTC")
            at = now()
            new = {"removed": at, "changes": row.changes + 1}
            connection.execute(update(webhooks).where(webhooks.c.id == webhook_id), new)
            mine = (webhook_deliveries.c.webhook == webhook_id) & (webhook_deliveries.c.state == "waiting")
            end = {"state": "failed", "body": None, "finished": at, "error": "the webhook was removed"}
            connection.execute(update(webhook_deliveries).where(mine), end)
            _record(connection, webhook_id, "revoke", who)

    def tell(self, event: Event, about: Mapping[str, Any], once: str) -> int:
        """Tell every webhook that asked for it of something that is not a change of the registry; how many.

        `once` names what happened: whoever else notices the same tells nobody again.
        """
        with self._database.write() as connection:
            return outbox.put(connection, event, about, once=once)

    def test(self, webhook_id: str, who: str) -> None:
        """Send the event `test` to this one. Raises NotFound."""
        with self._database.write() as connection:
            if _existing(connection, webhook_id).removed is not None:
                raise NotFound(f"webhook {webhook_id} was removed; `tuneline webhooks ls` lists the others")
            outbox.put(connection, "test", {"who": who}, only=webhook_id)

    def deliveries(self, webhook_id: str | None = None, limit: int = 50) -> list[Delivery]:
        """The latest deliveries, newest first. Raises NotFound for a webhook that never was."""
        query = select(webhook_deliveries).order_by(webhook_deliveries.c.sequence.desc()).limit(limit)
        with self._database.read() as connection:
            if webhook_id is not None:
                _existing(connection, webhook_id)
                query = query.where(webhook_deliveries.c.webhook == webhook_id)
            rows = list(connection.execute(query))
        return [Delivery.of_row(row) for row in rows]

    def audit(self) -> list[AccessEvent]:
        """Every webhook added or removed, oldest first; raises Corrupt when one is not as it was."""
        with self._database.read() as connection:
            rows = connection.execute(select(webhooks).order_by(webhooks.c.created)).all()
            standing = {f"webhook {row.id}": (row.changes, _state(row)) for row in rows}
            return access_log.checked(connection, standing)

    def due(self, at: float | None = None) -> bool:
        """Whether a delivery is to be attempted now; takes no lock."""
        waiting = webhook_deliveries.c.state == "waiting"
        query = select(webhook_deliveries.c.id).where(
            waiting, webhook_deliveries.c.due <= (at or time.time())
        )
        with self._database.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def claim(self, seconds: float, limit: int) -> list[Claimed]:
        """Up to `limit` deliveries that are due, the oldest first; nobody else gets them for `seconds`.

        Whoever dies with a claim loses it, and the delivery is attempted again: a receiver may get one twice,
        with the same id.
        """
        at = time.time()
        waiting = (webhook_deliveries.c.state == "waiting") & (webhook_deliveries.c.due <= at)
        query = select(webhook_deliveries, webhooks.c.url, webhooks.c.secret, webhooks.c.private)
        query = query.join(webhooks, webhooks.c.id == webhook_deliveries.c.webhook).where(waiting)
        with self._database.write() as connection:
            rows = connection.execute(query.order_by(webhook_deliveries.c.sequence).limit(limit)).all()
            these = webhook_deliveries.c.id.in_([row.id for row in rows])
            connection.execute(update(webhook_deliveries).where(these), {"due": at + seconds})
        return [
            Claimed(row.id, row.event, row.body, row.attempts, row.url, row.secret, bool(row.private))
            for row in rows
        ]

    def settle(
        self, delivery: Claimed, answer: int | None, error: str | None, retry_at: float | None
    ) -> None:
        """Write down an attempt: delivered (no `error`), to try again at `retry_at`, or failed."""
        new: dict[str, Any] = {"attempts": delivery.attempts + 1, "answer": answer, "error": error}
        if error is not None and retry_at is not None:
            new |= {"due": retry_at}
        else:
            new |= {"state": "delivered" if error is None else "failed", "body": None, "finished": now()}
        waiting = (webhook_deliveries.c.id == delivery.id) & (webhook_deliveries.c.state == "waiting")
        with self._database.write() as connection:
            connection.execute(update(webhook_deliveries).where(waiting), new)


def _record(connection: Connection, webhook_id: str, action: access_log.Action, who: str) -> None:
    row = _existing(connection, webhook_id)
    access_log.record(connection, f"webhook {webhook_id}", row.changes, action, _state(row), who)


def _state(row: Row[Any]) -> _WebhookState:
    return {
        "url": row.url,
        "events": json.loads(row.events),
        "private": bool(row.private),
        "removed": row.removed,
    }


def _existing(connection: Connection, webhook_id: str) -> Row[Any]:
    row = connection.execute(select(webhooks).where(webhooks.c.id == webhook_id)).one_or_none()
    if row is None:
        raise NotFound(f"no webhook {webhook_id[:40]!r}; `tuneline webhooks ls` lists them")
    return row


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook.of_row(row, events=json.loads(row.events))
