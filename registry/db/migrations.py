"""From an older schema to this one, in one transaction: then all is as in a fresh database, with its rows.

`upgrades/from-VERSION.SYSTEM.sql` leads from a version to the next one. The tables are written out there and
not taken from `tables`, which will have moved on by then; `triggers` are made anew after the last step.
Version 1 was SQLite's alone.
"""

from __future__ import annotations

from importlib import resources

from sqlalchemy import Connection

from registry.db import tables as schema
from registry.db import triggers

UPGRADES = resources.files("registry.db") / "upgrades"


def can_upgrade(system: str, version: int) -> bool:
    """Whether a database of this system ("sqlite", "postgresql") and schema version can be upgraded."""
    return version < schema.VERSION and (UPGRADES / f"from-{version}.{system}.sql").is_file()


def statements(system: str, version: int) -> list[str]:
    """What leads from this version to the next one; each statement ends at the end of a line."""
    text = (UPGRADES / f"from-{version}.{system}.sql").read_text("utf-8")
    return [statement for statement in text.split(";\n") if statement.strip()]


def upgrade(connection: Connection, version: int) -> None:
    """Take the database from `version` to `schema.VERSION`; the caller holds the write lock and commits."""
    triggers.drop(connection)
    for step in range(version, schema.VERSION):
        for statement in statements(connection.dialect.name, step):
            connection.exec_driver_sql(statement)
    triggers.create(connection)
