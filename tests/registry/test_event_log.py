"""The chained logs, on a registry that was made before they had one module.

`db/data/schema-3.sql` holds the database of that registry: two channels with moves, a rollback and rollouts,
two tenants with each of their changes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registry import Registry, Waiver
from registry.db import triggers
from registry.errors import Corrupt

DATABASE = Path(__file__).parent / "db" / "data" / "schema-3.sql"
HOUR = timedelta(hours=1)
LOGS: dict[str, Callable[[Registry], list[Any]]] = {
    "channel_events": lambda registry: registry.channels.history("team/prod"),
    "tenant_events": lambda registry: registry.tenants.audit("acme"),
    "rollout_events": lambda registry: registry.rollouts.history("team/prod"),
}


@pytest.fixture
def recorded(home: Path) -> Iterator[Registry]:
    home.mkdir()
    with closing(sqlite3.connect(home / "registry.db")) as connection:
        connection.executescript(DATABASE.read_text("utf-8"))
        connection.execute("PRAGMA journal_mode = WAL")
    with Registry.open(home) as registry:
        yield registry


def test_what_was_recorded_before_is_verified_and_goes_on(recorded: Registry) -> None:
    before = {name: read(recorded) for name, read in LOGS.items()}
    assert [len(events) for events in before.values()] == [4, 4, 3]
    current = recorded.channels.get("team/prod")
    assert current is not None
    recorded.rollouts.stop("team/prod", "ada", "enough")
    recorded.channels.move("team/prod", recorded.ls()[0].id, current.generation, waiver=Waiver("why", "ada"))
    recorded.tenants.rotate("acme", "ada", HOUR)
    for name, read in LOGS.items():
        after = read(recorded)
        assert after[:-1] == before[name]
        assert after[-1].previous_digest == before[name][-1].digest
    assert len(recorded.tenants.audit()) == 9


@pytest.mark.parametrize(
    "change", ["who = 'eve'", "digest = substr(digest, 2) || substr(digest, 1, 1)", "at = '2020'"]
)
@pytest.mark.parametrize("table", LOGS)
def test_each_changed_event_shows(recorded: Registry, table: str, change: str) -> None:
    number = "generation" if table == "channel_events" else "number"
    owner = "tenant = 'acme'" if table == "tenant_events" else "channel = 'team/prod'"
    with recorded.database.write() as connection:
        triggers.drop(connection)
    for event in range(1, len(LOGS[table](recorded)) + 1):
        where = f"WHERE {owner} AND {number} = {event}"
        with recorded.database.write() as connection:
            connection.exec_driver_sql(f"CREATE TEMP TABLE kept AS SELECT * FROM {table} {where}")
            connection.exec_driver_sql(f"UPDATE {table} SET {change} {where}")
        with pytest.raises(Corrupt, match=f"event {event} does not match its digest"):
            LOGS[table](recorded)
        with recorded.database.write() as connection:
            connection.exec_driver_sql(f"DELETE FROM {table} {where}")
            connection.exec_driver_sql(f"INSERT INTO {table} SELECT * FROM kept")
            connection.exec_driver_sql("DROP TABLE kept")
    LOGS[table](recorded)
