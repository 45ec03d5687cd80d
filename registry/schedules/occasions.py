"""Occasions: a schedule's reasons to run. Each is written once, whoever notices it first.

One that somebody asks for waits without runs until the next look at the schedule gives it some.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from registry.artifacts import Record
from registry.channels.channels import check_text
from registry.db.engine import Database, now
from registry.db.schedule_tables import schedule_occasions, schedule_runs
from registry.schedules.definition import ASKED

SKIPPED = ("unchanged", "skipped")
"""States of a run that was decided against before it began."""


class Occasion(Record):
    """Why a schedule is to run, and when that was due; `version` is the schedule's, once it has runs."""

    schedule: str
    id: str
    trigger: str
    why: str
    due: datetime
    version: int | None = None


class Planned(Record):
    """A run that an occasion gets: one that waits until `begins` (seconds since the epoch), or one that was
    decided against, with the reason in `note`."""

    target: str
    channel: str
    state: str = "waiting"
    note: str = ""
    begins: float = 0.0
    learned: str | None = None
    base_key: str | None = None
    source_rows: int | None = None


def due_at(schedule: str, trigger: str, why: str, due: datetime) -> Occasion:
    """The occasion that everyone who looks at the same schedule finds at the same time."""
    at = due.astimezone(UTC)
    return Occasion(schedule=schedule, id=f"{trigger}-{at:%Y%m%dT%H%M%SZ}", trigger=trigger, why=why, due=at)


class Occasions:
    """The occasions of a registry's schedules."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, schedule: str, trigger: str, why: str) -> Occasion:
        """An occasion that somebody asks for: the next look at the schedule gives it its runs.

        A second one while the first waits is the first. `trigger`: one of `ASKED`. Raises InvalidArtifact.
        """
        assert trigger in ASKED
        check_text("the reason", why)
        waiting = select(schedule_occasions).where(
            schedule_occasions.c.schedule == schedule,
            schedule_occasions.c.trigger == trigger,
            schedule_occasions.c.version.is_(None),
        )
        with self._database.write() as connection:
            row = connection.execute(waiting.limit(1)).one_or_none()
            if row is not None:
                return _occasion(row)
            occasion_id = secrets.token_hex(8)
            values = {"schedule": schedule, "id": occasion_id, "trigger": trigger, "why": why, "due": now()}
            connection.execute(insert(schedule_occasions), {**values, "version": None})
        return Occasion.model_validate(values)

    def asked(self, schedule: str) -> list[Occasion]:
        """Those that wait for their runs, oldest first."""
        query = select(schedule_occasions).where(
            schedule_occasions.c.schedule == schedule, schedule_occasions.c.version.is_(None)
        )
        with self._database.read() as connection:
            return [_occasion(row) for row in connection.execute(query.order_by(schedule_occasions.c.due))]

    def latest(self, schedule: str, trigger: str, until: datetime) -> Occasion | None:
        """The one of this trigger that was due last by `until`: a clock may have run ahead once."""
        query = select(schedule_occasions).where(
            schedule_occasions.c.schedule == schedule,
            schedule_occasions.c.trigger == trigger,
            schedule_occasions.c.due <= until.astimezone(UTC).isoformat(timespec="microseconds"),
        )
        newest = query.order_by(schedule_occasions.c.due.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(newest).one_or_none()
        return None if row is None else _occasion(row)

    def between(self, begin: datetime, end: datetime, trigger: str) -> list[Occasion]:
        """Those of this trigger, due from `begin` to before `end`, of all schedules, oldest first."""
        first, last = (at.astimezone(UTC).isoformat(timespec="microseconds") for at in (begin, end))
        columns = schedule_occasions.c
        query = select(schedule_occasions).where(
            columns.trigger == trigger, columns.due >= first, columns.due < last
        )
        with self._database.read() as connection:
            return [_occasion(row) for row in connection.execute(query.order_by(columns.due))]

    def plan(self, occasion: Occasion, version: int, runs: Sequence[Planned]) -> bool:
        """Give the occasion its runs, all at once; False where somebody else was faster.

        A target whose run of an earlier occasion is not over gets no second one: that is skipped.
        """
        mine = (schedule_occasions.c.schedule == occasion.schedule) & (schedule_occasions.c.id == occasion.id)
        at = now()
        with self._database.write() as connection:
            row = connection.execute(select(schedule_occasions).where(mine)).one_or_none()
            if row is not None and row.version is not None:
                return False
            if row is None:
                values = {field: getattr(occasion, field) for field in ("schedule", "id", "trigger", "why")}
                due = occasion.due.astimezone(UTC).isoformat(timespec="microseconds")
                connection.execute(insert(schedule_occasions), {**values, "due": due, "version": version})
            else:
                connection.execute(update(schedule_occasions).where(mine), {"version": version})
            busy = _busy(connection, occasion.schedule)
            for run in runs:
                values = {**run.model_dump(), "schedule": occasion.schedule, "occasion": occasion.id}
                if run.state not in SKIPPED and run.target in busy:
                    values |= {"state": "skipped", "note": f"its run of {busy[run.target]} is not over"}
                ended = at if values["state"] in SKIPPED else None
                connection.execute(insert(schedule_runs), {**values, "attempts": 0, "finished": ended})
        return True


def _busy(connection: Connection, schedule: str) -> dict[str, str]:
    """Target → the occasion of its run that is not over."""
    open_ones = select(schedule_runs.c.target, schedule_runs.c.occasion).where(
        schedule_runs.c.schedule == schedule, schedule_runs.c.finished.is_(None)
    )
    return {row.target: row.occasion for row in connection.execute(open_ones)}


def _occasion(row: Row[Any]) -> Occasion:
    return Occasion.model_validate(row._asdict())
