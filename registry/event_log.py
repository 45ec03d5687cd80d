"""Append-only logs whose events are chained by their digests: what was changed or lost later shows.

A digest covers its event and, through `previous_digest`, all before it in the same chain. A log has one chain
for each channel, or each tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Row, insert, select

from registry.artifacts import digest
from registry.errors import Corrupt

_BEGINNING = "0" * 64
"""What the first event of a chain has as its `previous_digest`."""
_NOT_COVERED = ("sequence", "digest")


@dataclass(frozen=True)
class EventLog:
    """The events of one table: `owner` says which chain each is in, `number` counts within it from 1."""

    label: str
    """What a message calls the log of one owner; the owner's name follows."""
    owner: Column[str]
    number: Column[int]

    def append(self, connection: Connection, owner: str, number: int, event: Mapping[str, Any]) -> None:
        """Add the event of this number to the owner's chain; `event` has the table's other columns."""
        mine = self.owner == owner
        previous = select(self.owner.table.c.digest).where(mine & (self.number == number - 1))
        row = {
            self.owner.name: owner,
            self.number.name: number,
            **event,
            "previous_digest": connection.execute(previous).scalar_one_or_none() or _BEGINNING,
        }
        connection.execute(insert(self.owner.table), {**row, "digest": digest(row)})

    def events(self, connection: Connection, owner: str | None = None) -> list[Row[Any]]:
        """The events of `owner` (default: of all) as they are in the table, in the order they were added."""
        table = self.owner.table
        query = select(table).order_by(table.c.get("sequence", self.number))
        return list(connection.execute(query if owner is None else query.where(self.owner == owner)))

    def verified(self, connection: Connection, owner: str | None = None) -> list[Row[Any]]:
        """As `events`; raises Corrupt where one was changed, or is not followed by the next.

        That the last ones were lost shows only beside a number that is kept elsewhere: see `check_end`.
        """
        rows = self.events(connection, owner)
        latest: dict[str, tuple[int, str]] = {}
        for row in rows:
            fields = row._asdict()
            name, number = fields[self.owner.name], fields[self.number.name]
            before, previous_digest = latest.get(name, (0, _BEGINNING))
            covered = {field: value for field, value in fields.items() if field not in _NOT_COVERED}
            if (number, row.previous_digest, row.digest) != (before + 1, previous_digest, digest(covered)):
                raise Corrupt(
                    f"{self.label} {name}: event {number} does not match its digest; it was changed"
                )
            latest[name] = (number, row.digest)
        return rows

    def check_end(self, owner: str, last: Row[Any] | None, expected: int) -> None:
        """Raise Corrupt unless the owner's last event has the expected number (0: there is none)."""
        number = 0 if last is None else last._asdict()[self.number.name]
        if number != expected:
            raise Corrupt(
                f"{self.label} {owner}: ends with event {number}, expected {expected}; events were lost"
            )
