"""Token budgets that all gateways of a database share: reserved before an answer, settled after it.

A reservation is for one request, or a lease: tokens that a gateway lets requests draw on without asking here.
Whether one fits is decided in the transaction that makes it, and there is one such transaction at a time, so
however many ask at once, what is used and reserved never passes the limit. Requests may wait for these
transactions, so they do not wait for the disk (`Database.count`): they outlive the end of the gateway,
however sudden, while a power cut may take back the last moments. A tenant could then use that much again.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, String, TextClause, bindparam, delete, exc, insert, select, text

from registry.db.engine import Database
from registry.db.serving_tables import budgets, gateways, reservations
from registry.errors import InvalidArtifact, NotFound
from registry.processes import ProcessId, host_id

SILENT_SECONDS = 60.0
"""A gateway on another host that says nothing for so long is taken for dead."""
SHARES = 8
"""Of what is left of a limit a lease gets one of so many parts at most; other gateways need some too."""


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
    "VALUES (:reservation, :gateway, :day, :tenant, :tokens)"
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


class Renewal(NamedTuple):
    """A lease that takes the place of another, or is a tenant's first of the day. All but names in tokens."""

    reservation: str
    """A fresh uuid, as 32 hex digits."""
    tenant: str
    day: str
    """UTC, YYYY-MM-DD."""
    limit: int
    replaces: str
    """The lease that ends; empty where there is none."""
    used: int
    """Of that one, by requests that have ended."""
    held: int
    """Of that one, by requests under way."""
    free: int
    """Of that one, kept for requests to come."""
    size: int
    """Wanted for requests to come."""
    least: int
    """For requests to come; fewer are not worth more than `free`."""


class Grant(NamedTuple):
    """A lease of `tokens`, none where that is 0; no more than `share` of them may be for requests to come."""

    tokens: int
    share: int


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
        return self.renew(gateway, (), asks)[1]

    def renew(
        self, gateway: str, renewals: Sequence[Renewal], asks: Sequence[Ask] = ()
    ) -> tuple[list[Grant], list[bool]]:
        """End leases, answer the asks as `reserve` does, then make the new leases; in one transaction.

        Of a lease that ends, what was used is counted. The new one has what was held and free of it whatever
        the limit is now, and grows to `size` as far as a share of what is left allows. A renewal that was
        written before (whose answer was lost) is answered again and counted once. Raises as `reserve` does.
        """
        _refuse_negative(ask.tokens for ask in asks)
        _refuse_negative(tokens for renewal in renewals for tokens in renewal[5:])
        if not (renewals or asks):
            return [], []
        with self._database.count() as connection:
            ids = [ask.reservation for ask in asks]
            ids += [name for one in renewals for name in (one.reservation, one.replaces)]
            recorded = {row.id: row.tokens for row in connection.execute(_KNOWN, {"ids": ids})}
            ended = {renewal.replaces: renewal.used for renewal in renewals if renewal.replaces}
            if ended:
                _settle(connection, ended)
            spent, new = _spent(connection, (*asks, *renewals)), list[Ask]()
            kept = [_keep(renewal, recorded, spent) for renewal in renewals]
            granted = [_granted(ask, recorded, spent, new) for ask in asks]
            grants = [
                _leased(renewal, mine, recorded, spent, new)
                for renewal, mine in zip(renewals, kept, strict=True)
            ]
            if new:
                _add(connection, gateway, new)
        return grants, granted

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


_Spent = dict[tuple[str, str], int]
"""Used and reserved, by day and tenant."""


def _granted(ask: Ask, recorded: dict[str, int], spent: _Spent, new: list[Ask]) -> bool:
    """Whether the ask is granted; then it is among the recorded, and what is not in the database in `new`."""
    if ask.reservation not in recorded and spent.get((ask.day, ask.tenant), 0) + ask.tokens <= ask.limit:
        _take(ask, recorded, spent, new)
    return ask.reservation in recorded


def _keep(renewal: Renewal, recorded: dict[str, int], spent: _Spent) -> int:
    """What the new lease has of the one that ended, or was granted before; it is among what is spent then."""
    if renewal.reservation in recorded:
        return recorded[renewal.reservation]
    kept = renewal.held + renewal.free if renewal.replaces in recorded else 0
    spent[renewal.day, renewal.tenant] = spent.get((renewal.day, renewal.tenant), 0) + kept
    return kept


def _leased(renewal: Renewal, kept: int, recorded: dict[str, int], spent: _Spent, new: list[Ask]) -> Grant:
    """The new lease, grown beyond what is kept; it is put where `_granted` puts an ask."""
    reservation, tenant, day, limit = renewal[:4]
    others = spent.get((day, tenant), 0) - kept
    share = max(0, limit - others - renewal.held) // SHARES
    if reservation not in recorded:
        grown = min(renewal.size, share)
        worth = grown >= max(renewal.free, renewal.least)
        tokens = max(kept, renewal.held + grown) if worth else kept
        spent[day, tenant] = others
        if tokens:
            _take(Ask(reservation, tenant, tokens, limit, day), recorded, spent, new)
    return Grant(recorded.get(reservation, 0), share)


def _take(ask: Ask, recorded: dict[str, int], spent: _Spent, new: list[Ask]) -> None:
    spent[ask.day, ask.tenant] = spent.get((ask.day, ask.tenant), 0) + ask.tokens
    recorded[ask.reservation] = ask.tokens
    new.append(ask)


def _spent(connection: Connection, asks: Sequence[Ask | Renewal]) -> _Spent:
    of = {"days": list({ask.day for ask in asks}), "tenants": list({ask.tenant for ask in asks})}
    return {(row.day, row.tenant): row.total for row in connection.execute(_SPENT, of)}


def _add(connection: Connection, gateway: str, asks: Sequence[Ask]) -> None:
    rows = [ask._asdict() | {"gateway": gateway} for ask in asks]
    _beat(connection, gateway)
    connection.execute(_ADD, rows)
    tokens = Counter[tuple[str, str]]()
    for ask in asks:
        tokens[ask.day, ask.tenant] += ask.tokens
    totals = [{"day": day, "tenant": of, "tokens": total} for (day, of), total in tokens.items()]
    try:
        connection.execute(_RESERVE, totals)
    except exc.IntegrityError as error:
        names = ", ".join(sorted({ask.tenant for ask in asks}))
        raise NotFound(f"at least one of these tenants does not exist: {names}") from error


def _settle(connection: Connection, used: dict[str, int]) -> int:
    ids = {"ids": list(used)}
    ended = connection.execute(_KNOWN, ids).all()
    counted, freed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in ended:
        counted[row.day, row.tenant] += used[row.id]
        freed[row.day, row.tenant] += row.tokens
    if ended:
        moved = [
            {"day": day, "tenant": of, "used": counted[day, of], "reserved": tokens}
            for (day, of), tokens in freed.items()
        ]
        connection.execute(_SETTLE, moved)
        connection.execute(_REMOVE, ids)
    return len(ended)


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
