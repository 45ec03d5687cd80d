"""Every row of every table, from one database into another, whichever systems they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, insert, select, text

from registry.artifacts import canonical
from registry.db import serving_tables
from registry.db import tables as schema
from registry.db.feed_tables import metadata  # the last of the modules that fill it

AT_ONCE = 1000
_FRESH = frozenset({"schema_version", "serving_version", "cookie_key", "leases"})
"""Tables whose rows do not make a registry one that is in use."""


def copy(source: Connection, target: Connection) -> dict[str, int]:
    """Copy all rows but the schema's version; returns how many by table. The schemas must be equal.

    `target` is a writing transaction on a registry that `is_empty`; nothing is there until it is committed.
    """
    counts = {}
    for table in tables():
        if table.name in _FRESH:
            target.execute(delete(table))
        counts[table.name] = 0
        for rows in _batches(source, table):
            target.execute(insert(table), [row._asdict() for row in rows])
            counts[table.name] += len(rows)
        _continue_numbers(target, table)
    return counts


def is_empty(connection: Connection) -> bool:
    """Whether nobody put anything into the registry yet."""
    return all(
        connection.execute(select(table).limit(1)).first() is None
        for table in tables()
        if table.name not in _FRESH
    )


def digest(connection: Connection) -> str:
    """sha256 (hex) over every value of every row; equal for two databases with the same content."""
    total = hashlib.sha256()
    for table in tables():
        for rows in _batches(connection, table):
            total.update(canonical([table.name, [list(row) for row in rows]]))
    return total.hexdigest()


def tables() -> list[Table]:
    """All but the schema's version, parents first; what triggers count comes last."""
    known = [table for table in metadata.sorted_tables if table is not schema.schema_version]
    return sorted(known, key=lambda table: table is serving_tables.serving_version)


def _batches(connection: Connection, table: Table) -> Iterator[Sequence[Row[Any]]]:
    query = select(table).order_by(*table.primary_key.columns)
    yield from connection.execute(query.execution_options(yield_per=AT_ONCE)).partitions()


def _continue_numbers(connection: Connection, table: Table) -> None:
    """Have PostgreSQL go on after the largest number that was copied, as SQLite does by itself."""
    column = table.autoincrement_column
    if connection.dialect.name == "postgresql" and column is not None:
        last = connection.execute(select(func.max(column))).scalar_one()
        if last is not None:
            advance = text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)")
            connection.execute(advance, {"table": table.name, "column": column.name, "last": last})
