"""A SQLite registry becomes one of a PostgreSQL server, an object store, or both; the old one is closed.

It is closed first, by triggers in its own file, so that also a process that has it open already writes
nothing that would be left behind. Then files are copied, then all rows in one transaction. What ends it in
between leaves the old registry closed and the new one empty; the same command goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, inspect, select

from registry.backup import rows, snapshot
from registry.backup.check import registry_problems
from registry.backup.make import Progress
from registry.backup.restore import alone
from registry.backup.transfer import transfer
from registry.db import tables as schema
from registry.errors import AlreadyExists, Conflict, InvalidSetting
from registry.leases import is_held
from registry.registry import Registry
from registry.store.files import wrap_os_errors
from registry.store.local import Failpoint

FAILPOINTS = ("move closed", "move copied", "move rows written", "move done")
"""In order; "move copied" once for each file."""


@dataclass(frozen=True)
class MoveReport:
    """What came over, and what is wrong with it."""

    artifacts: int
    files: int
    already: bool
    problems: list[str]


def move(
    old: Registry,
    new: Registry,
    where: str,
    *,
    progress: Progress = lambda done, of: None,
    failpoint: Failpoint = lambda at: None,
) -> MoveReport:
    """Close `old`, of a SQLite file, and copy all of it into `new`; `where` is what the old one names then.

    Both are of one home, whose keys and runs stay.

    Raises InvalidSetting where `old` is of a server, Conflict while a process works in it, AlreadyExists
    where `new` holds anything else, Corrupt naming a damaged artifact, StoreFull, StoreFailed.
    """
    if old.database.engine.dialect.name != "sqlite":
        raise InvalidSetting("only a SQLite registry is moved; `tuneline backup` and `restore` take any")
    with wrap_os_errors(f"moving {old.home}"), alone(new.home) as scratch:
        _refuse_in_use(old, new)
        with old.database.write() as connection:
            _refuse_at_work(connection)
            _close(connection, where)
        failpoint("move closed")
        with old.database.read() as source:
            known, files, count = rows.digest(source), snapshot.needed(source), 0
            for _ in transfer(
                files, old.store.blobs, new.store.blobs, scratch, files.__getitem__, reread=True
            ):
                progress(count := count + 1, len(files))
                failpoint("move copied")
            with new.database.write() as target:
                already = not rows.is_empty(target)
                if not already:
                    rows.copy(source, target)
                    failpoint("move rows written")
            artifacts = source.execute(select(func.count()).select_from(schema.artifacts)).scalar_one()
        failpoint("move done")
        with new.database.read() as connection:
            problems = [] if rows.digest(connection) == known else ["the rows differ from the old ones"]
        return MoveReport(artifacts, count, already, problems + registry_problems(new))


def _refuse_in_use(old: Registry, new: Registry) -> None:
    with old.database.read() as source, new.database.read() as target:
        if not rows.is_empty(target) and rows.digest(source) != rows.digest(target):
            raise AlreadyExists("the new database is not empty and nothing was changed; use an empty one")


def _refuse_at_work(connection: Connection) -> None:
    for row in connection.execute(select(schema.leases).where(schema.leases.c.host.is_not(None))):
        if is_held(row):
            raise Conflict(
                f"stage {row.stage} is running (pid {row.pid}) and nothing was changed; wait for it or stop "
                "it, then move"
            )


def _close(connection: Connection, where: str) -> None:
    words = f"this registry was moved to {where}; nothing is written here any more".replace("'", "''")
    for table in inspect(connection).get_table_names():
        for event in ("INSERT", "UPDATE", "DELETE"):
            name = f"moved_{table}_{event.lower()}"
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
            connection.exec_driver_sql(
                f"CREATE TRIGGER {name} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, '{words}'); END"
            )
