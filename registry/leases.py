"""Leases: one process at a time works on a key, and one that lost its lease can no longer publish.

The token that comes with a lease only ever grows ("fencing token": Kleppmann, Designing Data-Intensive
Applications, ch. 8), and the publishing transaction checks it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from registry import content
from registry.db.engine import Database, now
from registry.db.tables import leases
from registry.errors import Held, Lost, RegistryError
from registry.processes import ProcessId, host_id

log = logging.getLogger("tuneline.registry")

_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between looks at a lease that another process holds; the last one again and again."""

EVERYTHING = "*"
"""In `holds`: the content of all artifacts."""

_GIVEN_UP: set[tuple[str, int, str]] = set()
"""Key, token and time of leases that this process gave back while the database could not be written.

Else, when it tries again, it would find itself at work until the lease runs out.
"""


def _log_once(held: Held, waited: float) -> None:
    if not waited:
        log.warning("waiting: %s", held)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a key that a live process works on, and what hears of it meanwhile.

    `on_wait` hears, at each look, who holds the key and for how many seconds this process waited, 0 at first.
    """

    seconds: float
    on_wait: Callable[[Held, float], None] = _log_once


NO_WAIT = Patience(0.0)


class Leases:
    """Leases on memo keys; each lasts `seconds` after it was taken or renewed."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._database = database
        self._acquired: dict[tuple[str, int], str] = {}
        self.seconds = seconds

    def acquire(self, key: str, stage: str, holds: Iterable[str] = ()) -> int:
        """Take the lease, also from a dead or expired holder; returns its token. A live holder: Held.

        The content of the artifacts in `holds` (ids) stays in the store while the lease is held; where it was
        collected already: Collected.
        """
        with self._database.write() as connection:
            return self.take(connection, key, stage, holds)

    def take(self, connection: Connection, key: str, stage: str, holds: Iterable[str] = ()) -> int:
        """`acquire` within a transaction: the lease stands or falls with what is written there."""
        held = sorted(holds)
        mine = {
            "stage": stage,
            "host": host_id(),
            **ProcessId.of().record,
            "acquired": now(),
            "expires": time.time() + self.seconds,
            "holds": json.dumps(held),
        }
        content.require(connection, held)
        row = _row(connection, key)
        if row is None:
            token = 1
            connection.execute(insert(leases), {"key": key, "token": token, **mine})
        elif is_held(row):
            raise _held(row)
        else:
            token = int(row.token) + 1
            connection.execute(update(leases).where(leases.c.key == key), {"token": token, **mine})
        self._acquired[key, token] = str(mine["acquired"])
        return token

    def wait_for(self, key: str, stage: str, holds: Iterable[str] = (), patience: Patience = NO_WAIT) -> int:
        """`acquire`, once whoever has the lease gave it back or died. Raises Held when patience ends."""
        held, began, looks = list(holds), time.monotonic(), 0
        while True:
            try:
                return self.acquire(key, stage, held)
            except Held as by:
                waited = time.monotonic() - began if looks else 0.0
                if waited >= patience.seconds:
                    raise (by.after(waited) if looks else by) from None
                patience.on_wait(by, waited)
                # Only the database knows, and SQLite does not notify; the holder may be on another machine.
                pause = _PAUSES[min(looks, len(_PAUSES) - 1)]
                time.sleep(min(pause, patience.seconds - waited))
                looks += 1

    def renew(self, key: str, token: int) -> None:
        """Extend the lease. Raises Lost when another process has it by now."""
        with self._database.write() as connection:
            self.guard(connection, key, token)

    @contextmanager
    def kept_alive(self, key: str, token: int) -> Iterator[None]:
        """Renew the lease now and then while the block runs, since a copy may take longer than it lasts."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.seconds / 3):
                with suppress(RegistryError):  # who lost it finds out by itself
                    self.renew(key, token)

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def guard(self, connection: Connection, key: str, token: int) -> None:
        """Extend the lease within a transaction, so that what is written there stands or falls with it.

        Raises Lost when another process has it by now.
        """
        mine = (leases.c.key == key) & (leases.c.token == token) & leases.c.host.is_not(None)
        extended = connection.execute(update(leases).where(mine), {"expires": time.time() + self.seconds})
        if extended.rowcount == 1:
            return
        row = _row(connection, key)
        raise Lost(
            f"the lease on key {key[:12]} (token {token}) is lost"
            + (f": {_held(row)}" if row is not None and row.host is not None else " and was released")
            + "; nothing was published: stop this run, and run the recipe again to use the other's result"
        )

    def release(self, key: str, token: int) -> None:
        """Give the lease back; no effect when it is already another's."""
        acquired = self._acquired.get((key, token), "")
        try:
            with self._database.write() as connection:
                self.give_back(connection, key, token)
        except RegistryError:
            _GIVEN_UP.add((key, token, acquired))
            raise

    def give_back(self, connection: Connection, key: str, token: int) -> None:
        """`release` within a transaction."""
        self._acquired.pop((key, token), None)
        mine = (leases.c.key == key) & (leases.c.token == token)
        connection.execute(update(leases).where(mine), {"host": None})

    @contextmanager
    def if_free(self, key: str) -> Iterator[bool]:
        """Whether no live process holds the key; none can take it before the block ends."""
        with self._database.write() as connection:
            row = _row(connection, key)
            yield row is None or not is_held(row)


def _row(connection: Connection, key: str) -> Row[Any] | None:
    return connection.execute(select(leases).where(leases.c.key == key)).one_or_none()


def is_held(row: Row[Any]) -> bool:
    """Whether the lease has not run out and its holder, as far as can be seen from here, lives."""
    if row.host is None or row.expires <= time.time() or (row.key, row.token, row.acquired) in _GIVEN_UP:
        return False
    return row.host != host_id() or ProcessId(row.pid, row.pid_started).is_alive()


def _held(row: Row[Any]) -> Held:
    until = datetime.fromtimestamp(row.expires, UTC).isoformat(timespec="seconds")
    host = row.host.split(" ")[0]
    return Held(stage=row.stage, key=row.key, pid=row.pid, host=host, since=row.acquired, until=until)
