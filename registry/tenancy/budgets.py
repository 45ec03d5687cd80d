"""Token budgets that all gateways of a database share: reserved before an answer, settled after it.

Whether a request fits is decided in the transaction that reserves for it, and there is one such transaction
at a time, so however many ask at once, what is used and reserved never passes the limit. Requests wait for
these transactions, so they do not wait for the disk (`Database.count`): they outlive the end of the gateway,
however sudden, while a power cut may take back the last moments. A tenant could then use that much again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, String, TextClause, bindparam, delete, exc, insert, select, text

from registry.db.engine import Database
from registry.db.serving_tables import budgets, gateways, reservations
from registry.errors import InvalidArtifact, NotFound
from registry.processes import ProcessId, host_id

SILENT_SECONDS = 60.0
"""A gateway on another host that says nothing for so long is taken for dead."""


def _listing(statement: str, *lists: str) -> TextClause:
    """The statement; the parameters named in `lists` are lists."""
    return text(statement).bindparams(*(bindparam(name, expanding=True, type_=String) for name in lists))


# Written out, as every request waits for them: to put them together each time takes longer than to run them.
_TOTALS = "SELECT day, tenant, used + reserved AS total FROM budgets "
_SPENT = _listing(f"{_TOTALS}WHERE day IN :days AND tenant IN :tenants", "days", "tenants")
_KNOWN = _listing("SELECT id, day, tenant, tokens FROM reservations WHERE id IN :ids", "ids")
_BEAT = text("UPDATE gateways SET beat = :at WHERE id = :id")
_ADD = text(
    "INSERT INTO reservations (id, gateway, day, tenant, tokens) "
    "VALUES (:id, :gateway, :day, :tenant, :tokens)"
)
_RESERVE = text(
    "INSERT INTO budgets (day, tenant, used, reserved) VALUES (:day, :tenant, 0, :tokens) "
    "ON CONFLICT (day, tenant) DO UPDATE SET reserved = budgets.reserved + excluded.reserved"
)
_SETTLE = text(
    "UPDATE budgets SET used = used + :used, reserved = reserved - :reserved "
    "WHERE day = :day AND tenant = :tenant"
)
_REMOVE = _listing("DELETE FROM reservations WHERE id IN :ids", "ids")


class Ask(NamedTuple):
    """`tokens` of the tenant's `limit` for the day; `reservation` is a fresh uuid, as 32 hex digits."""

    reservation: str
    tenant: str
    tokens: int
    limit: int
    day: str
    """UTC, YYYY-MM-DD."""


class Budgets:
    """The token budgets of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reserve(self, gateway: str, asks: Sequence[Ask]) -> list[bool]:
        """Which of the asks are granted, each if what is used and reserved, and it, stay within its limit.

        In order, in one transaction. One that was granted before (whose answer was lost) is granted again and
        counted once. Raises NotFound for a tenant that does not exist, and for a gateway that was not opened
        or was taken for dead: open it again; InvalidArtifact for negative tokens.
        """
        _refuse_negative(ask.tokens for ask in asks)
        if not asks:
            return []
        with self._database.count() as connection:
            spent = _spent(connection, asks)
            ids = [ask.reservation for ask in asks]
            recorded = {row.id for row in connection.execute(_KNOWN, {"ids": ids})}
            granted, new = [], []
            for ask in asks:
                total = spent.get((ask.day, ask.tenant), 0) + ask.tokens
                if ask.reservation not in recorded and total <= ask.limit:
                    spent[ask.day, ask.tenant] = total
                    recorded.add(ask.reservation)
                    new.append(ask)
                granted.append(ask.reservation in recorded)
            if new:
                _add(connection, gateway, new)
        return granted

    def settle(self, settlements: Sequence[tuple[str, int]]) -> None:
        """Count what was really used, (reservation, tokens), and give back the rest; in one transaction.

        More than was reserved is counted too. A reservation that was settled or charged before, or never
        made, changes nothing. Raises InvalidArtifact for negative tokens.
        """
        used: dict[str, int] = {}
        for reservation, tokens in settlements:
            used.setdefault(reservation, tokens)
        _refuse_negative(used.values())
        if used:
            with self._database.count() as connection:
                _settle(connection, used)

    def spent(self, tenant: str, day: str) -> tuple[int, int]:
        """Tokens used, and tokens reserved, by the tenant on that day (UTC, YYYY-MM-DD)."""
        mine = (budgets.c.day == day) & (budgets.c.tenant == tenant)
        with self._database.read() as connection:
            row = connection.execute(select(budgets.c.used, budgets.c.reserved).where(mine)).one_or_none()
        return (0, 0) if row is None else (row.used, row.reserved)

    def open_gateway(self, host: str, process: ProcessId) -> str:
        """The id under which a gateway reserves; `host`: as `host_id` says."""
        gateway = secrets.token_hex(8)
        row = {"id": gateway, "host": host, **process.record, "beat": time.time()}
        with self._database.count() as connection:
            connection.execute(insert(gateways), row)
        return gateway

    def beat(self, gateway: str) -> None:
        """Say that the gateway lives, as each grant says too; no less than every `SILENT_SECONDS`.

        Raises NotFound, where it was taken for dead.
        """
        with self._database.count() as connection:
            _beat(connection, gateway)

    def close_gateway(self, gateway: str) -> int:
        """Forget a gateway that ends; what it did not settle is charged in full. Returns how many were."""
        with self._database.count() as connection:
            return _end(connection, [gateway])

    def recover(self) -> int:
        """Charge the reservations of dead gateways in full, as nobody knows what they used; returns how many.

        Dead is one of this host whose process is gone, and one of another host without a beat for
        `SILENT_SECONDS`, by this host's clock.
        """
        host, late = host_id(), time.time() - SILENT_SECONDS
        with self._database.count() as connection:
            dead = []
            for row in connection.execute(select(gateways)):
                process = ProcessId(row.pid, row.pid_started)
                if (not process.is_alive()) if row.host == host else row.beat < late:
                    dead.append(row.id)
            return _end(connection, dead)


def _spent(connection: Connection, asks: Sequence[Ask]) -> dict[tuple[str, str], int]:
    """Used and reserved, by day and tenant."""
    of = {"days": list({ask.day for ask in asks}), "tenants": list({ask.tenant for ask in asks})}
    return {(row.day, row.tenant): row.total for row in connection.execute(_SPENT, of)}


def _add(connection: Connection, gateway: str, asks: Sequence[Ask]) -> None:
    rows = [
        {
            "id": ask.reservation,
            "gateway": gateway,
            "day": ask.day,
            "tenant": ask.tenant,
            "tokens": ask.tokens,
        }
        for ask in asks
    ]
    _beat(connection, gateway)
    connection.execute(_ADD, rows)
    try:
        connection.execute(_RESERVE, rows)
    except exc.IntegrityError as error:
        names = ", ".join(sorted({ask.tenant for ask in asks}))
        raise NotFound(f"at least one of these tenants does not exist: {names}") from error


def _settle(connection: Connection, used: dict[str, int]) -> int:
    ids = {"ids": list(used)}
    moved = [
        {"day": row.day, "tenant": row.tenant, "used": used[row.id], "reserved": row.tokens}
        for row in connection.execute(_KNOWN, ids)
    ]
    if moved:
        connection.execute(_SETTLE, moved)
        connection.execute(_REMOVE, ids)
    return len(moved)


def _end(connection: Connection, dead: list[str]) -> int:
    query = select(reservations.c.id, reservations.c.tokens).where(reservations.c.gateway.in_(dead))
    charged = _settle(connection, {row.id: row.tokens for row in connection.execute(query)})
    connection.execute(delete(gateways).where(gateways.c.id.in_(dead)))
    return charged


def _refuse_negative(counts: Iterable[int]) -> None:
    if any(tokens < 0 for tokens in counts):
        raise InvalidArtifact("tokens below 0 cannot be reserved or settled")


def _beat(connection: Connection, gateway: str) -> None:
    if connection.execute(_BEAT, {"at": time.time(), "id": gateway}).rowcount != 1:
        raise NotFound(
            f"unknown gateway {gateway[:40]!r}: it was never opened, or counted as dead and its reservations "
            "were charged; open it again"
        )
