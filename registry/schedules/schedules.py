"""The schedules of a registry. Every change is in a chained log; a schedule's version is its latest event."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy import Connection, Row, insert, select, update

from registry.artifacts import JsonObject, Record, canonical
from registry.channels.channels import check_name, check_text
from registry.db.engine import Database, now
from registry.db.schedule_tables import schedule_events, schedule_occasions, schedules
from registry.errors import AlreadyExists, Corrupt, InvalidSchedule, NotFound
from registry.event_log import EventLog
from registry.schedules.definition import NAME, Definition, Trigger
from registry.schedules.runs import skip_removed

Action = Literal["add", "change", "pause", "resume", "rm"]
LOG = EventLog("log of schedule", schedule_events.c.schedule, schedule_events.c.number)


class Schedule(Record):
    """A schedule as it is; `version` counts its changes. `has_token`: a webhook can trigger it."""

    name: str
    version: int
    paused: bool
    has_token: bool
    created: datetime
    definition: Definition


class ScheduleEvent(Record):
    """One change, and what it left; `digest` covers it and, through `previous_digest`, all before it."""

    schedule: str
    number: int
    action: Action
    state: dict[str, Any]
    who: str
    at: datetime
    previous_digest: str
    digest: str


class _ScheduleState(TypedDict):
    definition: JsonObject
    paused: bool
    token: str | None
    """Its sha256."""
    removed: str | None


class Schedules:
    """The schedules of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self, name: str, definition: Definition, who: str, *, replace: bool
    ) -> tuple[Schedule, str | None]:
        """A new schedule, or with `replace` another version of one; and its new token, if it got one.

        The token (`tls-…`) is not kept: show it once. There is one while `webhook` is a trigger.
        Raises AlreadyExists, InvalidSchedule for a bad name, InvalidArtifact for a bad channel or `who`.
        """
        if not NAME.fullmatch(name):
            raise InvalidSchedule(
                f"{name[:80]!r} is not a valid name of a schedule; expected up to 64 of a-z, 0-9, '.', '_', "
                "'-', beginning with a letter or digit"
            )
        for channel in definition.channels:
            check_name(channel)
        check_text("the name of whoever changes the schedule", who)
        values = {"definition": canonical(definition.model_dump(mode="json")).decode()}
        with self._database.write() as connection:
            row = _row(connection, name)
            standing = row is not None and row.removed is None
            if standing and not replace:
                raise AlreadyExists(
                    f"schedule {name} exists; `tuneline schedule add --replace` makes another version of it"
                )
            token = row.token if row is not None and standing else None
            text = None
            if not any(trigger.on == "webhook" for trigger in definition.triggers):
                token = None
            elif token is None:
                text = f"tls-{secrets.token_urlsafe(32)}"
                token = digest_of(text)
            if row is None:
                new = {"name": name, **values, "paused": 0, "token": token, "created": now(), "changes": 1}
                connection.execute(insert(schedules), new)
            else:
                paused = row.paused if standing else 0
                _step(connection, row, {**values, "token": token, "removed": None, "paused": paused})
            _record(connection, name, "change" if standing else "add", who)
            return _schedule(_existing(connection, name)), text

    def get(self, name: str) -> Schedule:
        """The schedule of this name; raises NotFound."""
        with self._database.read() as connection:
            return _schedule(_existing(connection, name))

    def ls(self) -> list[Schedule]:
        """Those that were not removed, by name."""
        query = select(schedules).where(schedules.c.removed.is_(None)).order_by(schedules.c.name)
        with self._database.read() as connection:
            return [_schedule(row) for row in connection.execute(query)]

    def pause(self, name: str, paused: bool, who: str) -> bool:
        """Stop, or let go on, its triggers; False where it was so before. Raises NotFound."""
        check_text("the name of whoever changes the schedule", who)
        with self._database.write() as connection:
            row = _existing(connection, name)
            if bool(row.paused) == paused:
                return False
            _step(connection, row, {"paused": int(paused)})
            _record(connection, name, "pause" if paused else "resume", who)
            return True

    def remove(self, name: str, who: str) -> None:
        """Take it out of use; its log and its runs stay, and what still waits is skipped. Raises NotFound."""
        check_text("the name of whoever removes the schedule", who)
        with self._database.write() as connection:
            before = _existing(connection, name)
            _step(connection, before, {"removed": now(), "token": None})
            _record(connection, name, "rm", who)
            skip_removed(connection, name)
            asked = (schedule_occasions.c.schedule == name) & schedule_occasions.c.version.is_(None)
            connection.execute(update(schedule_occasions).where(asked), {"version": before.changes + 1})

    def since(self, schedule: Schedule, trigger: Trigger) -> datetime | None:
        """Since when the schedule has this trigger, in its time zone, without a break; None: not any more."""
        events = select(schedule_events).where(schedule_events.c.schedule == schedule.name)
        wanted = trigger.model_dump(mode="json"), schedule.definition.zone
        begin: datetime | None = None
        with self._database.read() as connection:
            for row in connection.execute(events.order_by(schedule_events.c.number.desc())):
                state = json.loads(row.state)
                had = [(earlier, state["definition"]["zone"]) for earlier in state["definition"]["triggers"]]
                if state["removed"] or wanted not in had:
                    break
                begin = schedule.created if row.number == 1 else datetime.fromisoformat(row.at)
        return begin

    def of_token(self, text: str) -> Schedule | None:
        """The schedule that this token triggers; None for one that triggers nothing."""
        query = select(schedules).where(schedules.c.token == digest_of(text), schedules.c.removed.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _schedule(row)

    def audit(self, name: str | None = None) -> list[ScheduleEvent]:
        """Every change of this schedule (default: of all), oldest first, of those removed too.

        Raises Corrupt when an event was changed or lost, or a schedule is not as its last event says.
        """
        query = select(schedules).order_by(schedules.c.name)
        with self._database.read() as connection:
            rows = LOG.verified(connection, name)
            latest = {row.schedule: row for row in rows}
            for row in connection.execute(query if name is None else query.where(schedules.c.name == name)):
                last = latest.get(row.name)
                LOG.check_end(row.name, last, row.changes)
                if last is not None and json.loads(last.state) != _state(row):
                    raise Corrupt(
                        f"schedule {row.name}: it was changed without an event; its log says how it was"
                    )
        return [ScheduleEvent.of_row(row, state=json.loads(row.state)) for row in rows]


def digest_of(text: str) -> str:
    """What of a token is stored: its sha256 (hex)."""
    return hashlib.sha256(text.encode()).hexdigest()


def checked(**values: Any) -> Definition:
    """A definition of these values; raises InvalidSchedule with a sentence for each that is wrong."""
    try:
        return Definition(**values)
    except ValidationError as error:
        messages = (
            f"{'.'.join(map(str, e['loc']))}: {_in_words(e)}".removeprefix(": ")
            for e in error.errors(include_url=False)
        )
        raise InvalidSchedule("; ".join(messages)) from None


def _in_words(error: ErrorDetails) -> str:
    if bound := _BOUNDS.get(error["type"]):
        words, key = bound
        return f"expected {words} {error['ctx'][key]:g}, found {error['input']:g}"
    return error["msg"].removeprefix("Value error, ")


_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
}


def _row(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(schedules).where(schedules.c.name == name)).one_or_none()


def _existing(connection: Connection, name: str) -> Row[Any]:
    row = _row(connection, name)
    if row is None or row.removed is not None:
        raise NotFound(f"no schedule {name[:80]!r}; `tuneline schedule ls` lists them")
    return row


def _step(connection: Connection, before: Row[Any], new: Mapping[str, object]) -> None:
    mine = schedules.c.name == before.name
    connection.execute(update(schedules).where(mine), {**new, "changes": before.changes + 1})


def _record(connection: Connection, name: str, action: Action, who: str) -> None:
    row = _row(connection, name)
    assert row is not None
    event = {"action": action, "state": canonical(_state(row)).decode(), "who": who, "at": now()}
    LOG.append(connection, name, row.changes, event)


def _state(row: Row[Any]) -> _ScheduleState:
    return {
        "definition": json.loads(row.definition),
        "paused": bool(row.paused),
        "token": row.token,
        "removed": row.removed,
    }


def _schedule(row: Row[Any]) -> Schedule:
    definition = Definition.model_validate_json(row.definition)
    return Schedule.of_row(row, version=row.changes, has_token=row.token is not None, definition=definition)
