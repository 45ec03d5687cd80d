"""The runs of schedules: who may begin which, and what came of each.

A run belongs to one target and one channel. Whoever begins it holds a lease on the channel, so two schedules
never work on one channel at once, and a run whose holder died is free again: at once where that can be seen,
else when the lease ends.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Subquery, func, select, update

from registry.artifacts import Record, digest
from registry.db.engine import Database, now
from registry.db.schedule_tables import schedule_occasions, schedule_runs, schedules
from registry.db.tables import leases as lease_table
from registry.errors import Held, Lost
from registry.leases import Leases, is_held

LEASE_SECONDS = 180.0
"""How long a run stays taken whose machine is gone, or whose database was away."""
ATTEMPTS = 5
"""A run that lost its process so often is not begun again."""
LOST_SECONDS = 30.0  # how long a run waits that lost its process twice; twice as long after each further time
OVER = ("promoted", "passed", "refused", "failed", "unchanged", "skipped")
JUDGED = ("promoted", "passed", "refused")
"""States of a run that came to its end."""


class ScheduledRun(Record):
    """One run of a schedule. `state`: waiting, running, or how it ended; `note` says why."""

    sequence: int
    schedule: str
    occasion: str
    trigger: str
    due: datetime
    target: str
    channel: str
    state: str
    note: str
    begins: float
    attempts: int
    learned: str | None
    base_key: str | None
    source_rows: int | None
    host: str | None
    started: datetime | None
    finished: datetime | None
    run: str | None
    artifact_id: str | None
    decision_id: str | None
    seconds: float | None
    cost: float | None

    @property
    def over(self) -> bool:
        return self.state in OVER


class Ended(Record):
    """How a run ended; `learned`, `base_key` and `source_rows` as they were when it began."""

    state: str
    note: str = ""
    learned: str | None = None
    base_key: str | None = None
    source_rows: int | None = None
    run: str | None = None
    artifact_id: str | None = None
    decision_id: str | None = None
    seconds: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Claim:
    """A run that this process may do, and the token of its lease. `again`: it began before."""

    run: ScheduledRun
    token: int
    again: bool = False


class ScheduledRuns:
    """The runs of a registry's schedules."""

    def __init__(self, database: Database, seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._leases = Leases(database, seconds)

    def claim(
        self, schedule: str, at_once: int, trigger: str | None = None, at: float | None = None
    ) -> Claim | None:
        """The next run that may begin, now this process's: None where there is none, or `at_once` run.

        Fewest attempts first, then begun longest ago, so one that is stopped keeps no other waiting; where
        somebody works on its channel, none. `trigger`: only of this one. `at`: seconds since the epoch (now).
        """
        ready = _runs(schedule, "waiting").where(schedule_runs.c.begins <= (at or time.time()))
        if trigger is not None:
            ready = ready.where(schedule_occasions.c.trigger == trigger)
        with self._database.read() as connection:
            begun = schedule_runs.c.started.nulls_first()
            rows = connection.execute(ready.order_by("attempts", begun, "sequence")).all()
        for row in rows:
            try:
                with self._database.write() as connection:
                    if len(_alive(connection, schedule)) >= at_once:
                        return None
                    claim = self._begin(connection, row)
            except Held:
                continue
            if claim is not None:
                return claim
        return None

    def _begin(self, connection: Connection, row: Row[Any]) -> Claim | None:
        """Take its channel's lease and mark it as begun, in the transaction that counted the others.

        A live holder of the lease: Held. None where it does not wait any more, or not as it did.
        """
        waits = (schedule_runs.c.sequence == row.sequence) & (schedule_runs.c.state == "waiting")
        same = waits & (schedule_runs.c.attempts == row.attempts) & (schedule_runs.c.begins == row.begins)
        if connection.execute(select(schedule_runs.c.sequence).where(same)).first() is None:
            return None
        key, mine = _key(row.channel), schedule_runs.c.sequence == row.sequence
        token = self._leases.take(connection, key, "retrain")
        acquired = select(lease_table.c.acquired).where(lease_table.c.key == key)
        new = {"state": "running", "note": "", "host": socket.gethostname(), "attempts": row.attempts + 1}
        new["started"] = connection.execute(acquired).scalar_one()
        connection.execute(update(schedule_runs).where(mine), new)
        run = ScheduledRun.of_row(connection.execute(_every().where(mine)).one())
        return Claim(run, token, row.started is not None)

    @contextmanager
    def kept(self, claim: Claim) -> Iterator[None]:
        """Keep the run this process's while the block runs."""
        with self._leases.kept_alive(_key(claim.run.channel), claim.token):
            yield

    def finish(self, claim: Claim, ended: Ended) -> None:
        """Write down how it ended and give the channel back. Raises Lost where another has the run."""
        self._leave(claim, {**ended.model_dump(), "finished": now()})

    def put_back(self, claim: Claim, note: str, begins: float = 0.0, failed: bool = True) -> None:
        """Let it wait again, until `begins`, or end with its schedule; `failed`: an attempt. Raises Lost."""
        back = {"state": "waiting", "note": note, "begins": begins, "host": None}
        self._leave(claim, {**back, "attempts": claim.run.attempts - (not failed)})

    def _leave(self, claim: Claim, values: Mapping[str, object]) -> None:
        mine, key = schedule_runs.c.sequence == claim.run.sequence, _key(claim.run.channel)
        with self._database.write() as connection:
            row = connection.execute(select(schedule_runs).where(mine)).one()
            if (row.state, row.attempts) == (values["state"], values.get("attempts", claim.run.attempts)):
                return  # written by an earlier call, whose answer got lost
            self._leases.guard(connection, key, claim.token)
            if row.state != "running":
                raise Lost(f"the run of {claim.run.target} was taken over; its state is another's to write")
            connection.execute(update(schedule_runs).where(mine), values)
            self._leases.give_back(connection, key, claim.token)
            skip_removed(connection, claim.run.schedule)

    def revive(self, schedule: str) -> list[ScheduledRun]:
        """Let those wait again whose process is gone; one that lost it `ATTEMPTS` times has failed."""
        revived = []
        with self._database.write() as connection:
            alive = {row.sequence for row in _alive(connection, schedule)}
            for row in connection.execute(_runs(schedule, "running")).all():
                if row.sequence in alive:
                    continue
                note = f"its process on {row.host} was gone (attempt {row.attempts} of {ATTEMPTS})"
                values: dict[str, Any] = {"state": "waiting", "note": note, "host": None}
                lost = row.attempts - 2  # what killed it twice may go on for a while
                values["begins"] = 0.0 if lost < 0 else time.time() + LOST_SECONDS * 2**lost
                if row.attempts >= ATTEMPTS:
                    values = {"state": "failed", "note": note, "finished": now()}
                mine = schedule_runs.c.sequence == row.sequence
                connection.execute(update(schedule_runs).where(mine), values)
                revived.append(ScheduledRun.of_row(connection.execute(_every().where(mine)).one()))
        return revived

    def put_off(self, run: ScheduledRun, note: str, begins: float | None = None) -> bool:
        """Let one that still waits do so until `begins`, or for good; False where it began meanwhile."""
        over = {"state": "skipped", "note": note, "finished": now()}
        values = over if begins is None else {"note": note, "begins": begins}
        mine = (schedule_runs.c.sequence == run.sequence) & (schedule_runs.c.state == "waiting")
        with self._database.write() as connection:
            return connection.execute(update(schedule_runs).where(mine), values).rowcount == 1

    def running(self, schedule: str) -> int:
        """How many are at work now, on all machines."""
        with self._database.read() as connection:
            return len(_alive(connection, schedule))

    def open(self, schedule: str) -> list[ScheduledRun]:
        """Those that wait or are at work, in their order."""
        query = _runs(schedule, "waiting", "running").order_by(schedule_runs.c.sequence)
        with self._database.read() as connection:
            return [ScheduledRun.of_row(row) for row in connection.execute(query)]

    def last_judged(self, schedule: str) -> dict[str, ScheduledRun]:
        """Target → its latest run that came to its end."""
        latest = _last_judged(schedule)
        with self._database.read() as connection:
            rows = connection.execute(_every().join(latest, latest.c.last == schedule_runs.c.sequence))
            return {row.target: ScheduledRun.of_row(row) for row in rows}

    def failures(self, schedule: str) -> dict[str, list[ScheduledRun]]:
        """Target → its failures since it last came to its end, the latest first; none without one."""
        latest, runs = _last_judged(schedule), schedule_runs.c
        both = _runs(schedule, "failed").outerjoin(latest, latest.c.target == runs.target)
        since = both.where(runs.sequence > func.coalesce(latest.c.last, 0)).order_by(runs.sequence.desc())
        failed: dict[str, list[ScheduledRun]] = {}
        with self._database.read() as connection:
            for row in connection.execute(since):
                failed.setdefault(row.target, []).append(ScheduledRun.of_row(row))
        return failed

    def spent(self, schedule: str, since: datetime, until: datetime) -> tuple[float, float]:
        """Seconds and cost of the runs that ended from `since` to `until`; the cost of those with a price."""
        ended = (schedule_runs.c.finished >= _text(since)) & (schedule_runs.c.finished < _text(until))
        sums = select(func.sum(schedule_runs.c.seconds), func.sum(schedule_runs.c.cost))
        with self._database.read() as connection:
            seconds, cost = connection.execute(sums.where(schedule_runs.c.schedule == schedule, ended)).one()
        return seconds or 0.0, cost or 0.0

    def history(
        self,
        schedule: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 1000,
    ) -> list[ScheduledRun]:
        """Runs that ended from `since` to `until`, or have not; the latest first."""
        query = _every() if schedule is None else _runs(schedule, *OVER, "waiting", "running")
        finished = schedule_runs.c.finished
        if since is not None:
            query = query.where(finished.is_(None) | (finished >= _text(since)))
        if until is not None:
            query = query.where(finished.is_(None) | (finished < _text(until)))
        with self._database.read() as connection:
            newest = query.order_by(schedule_runs.c.sequence.desc()).limit(limit)
            return [ScheduledRun.of_row(row) for row in connection.execute(newest)]


def skip_removed(connection: Connection, schedule: str) -> None:
    """Where the schedule was removed, decide against what waits of it, and what lost its process."""
    removed = select(schedules.c.removed).where(schedules.c.name == schedule)
    if connection.execute(removed).scalar_one() is None:
        return
    alive = [row.sequence for row in _alive(connection, schedule)]
    open_ones = (schedule_runs.c.schedule == schedule) & schedule_runs.c.finished.is_(None)
    gone = update(schedule_runs).where(open_ones, schedule_runs.c.sequence.not_in(alive))
    connection.execute(gone, {"state": "skipped", "note": "its schedule was removed", "finished": now()})


def _every() -> Select[Any]:
    both = (schedule_occasions.c.schedule == schedule_runs.c.schedule) & (
        schedule_occasions.c.id == schedule_runs.c.occasion
    )
    return select(schedule_runs, schedule_occasions.c.trigger, schedule_occasions.c.due).join(
        schedule_occasions, both
    )


def _runs(schedule: str, *states: str) -> Select[Any]:
    return _every().where(schedule_runs.c.schedule == schedule, schedule_runs.c.state.in_(states))


def _last_judged(schedule: str) -> Subquery:
    """Target, and the sequence of its latest run that came to its end."""
    mine = (schedule_runs.c.schedule == schedule) & schedule_runs.c.state.in_(JUDGED)
    last = select(schedule_runs.c.target, func.max(schedule_runs.c.sequence).label("last"))
    return last.where(mine).group_by(schedule_runs.c.target).subquery()


def _alive(connection: Connection, schedule: str) -> list[Row[Any]]:
    """Those at work: their channel's lease is held, and was taken as they began, so it is theirs."""
    running = connection.execute(_runs(schedule, "running")).all()
    keys = [_key(row.channel) for row in running]
    leases = connection.execute(select(lease_table).where(lease_table.c.key.in_(keys)))
    since = {row.key: row.acquired for row in leases if is_held(row)}
    return [row for row in running if since.get(_key(row.channel)) == row.started]


def _key(channel: str) -> str:
    """What the lease on a channel is kept under."""
    return digest(["retrain", channel])


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")
