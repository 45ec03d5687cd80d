"""PostgreSQL: writers wait for one advisory lock, readers see one state, every wait has an end."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

from registry import errors

log = logging.getLogger("tuneline.registry")

LOCK_SECONDS = 60
READING: dict[str, Any] = {"isolation_level": "REPEATABLE READ"}

_WRITER = 0x74756E656C696E65  # "tuneline"; advisory locks are named by a number, within one database
_COUNTER = _WRITER + 1
_SETTINGS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "application_name": "tuneline",
    "client_encoding": "utf8",
}
# All local to the transaction, so that a pooler between us and the server may share connections. A server
# that answers a commit before it is on its disk is told not to. A client that stopped in a transaction, or
# whose host is gone, must not keep the lock.
_WAITING = (
    f"SELECT set_config('lock_timeout', '{LOCK_SECONDS}s', true), "
    "set_config('idle_in_transaction_session_timeout', '10min', true), "
    "set_config('tcp_keepalives_idle', '30', true), set_config('tcp_keepalives_interval', '10', true), "
    "set_config('tcp_keepalives_count', '3', true), set_config('synchronous_commit', "
)
_BEFORE_WRITING = (
    f"{_WAITING}CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' "
    "ELSE current_setting('synchronous_commit') END, true)"
)
_BEFORE_COUNTING = f"{_WAITING}'off', true)"


class Commits:
    """PostgreSQL keeps no number of commits that is cheaper to ask for than a reading."""

    def __init__(self, _engine: Engine) -> None: ...

    def number(self) -> int | None:
        return None

    def close(self) -> None: ...


def connect(address: URL) -> Engine:
    """An engine for the database that the URL names; what it leaves out, libpq takes from PGHOST and so on.

    Raises InvalidSetting where the driver is not installed or the URL cannot be meant so.
    """
    unreadable = errors.InvalidSetting(
        "the database URL cannot be read; expected postgresql://USER@HOST:PORT/DATABASE, where "
        "'@', '/' and ':' within a name or password are written %40, %2F and %3A"
    )
    if not address.database or "@" in f"{address.database}{address.host}":
        raise unreadable
    query = {**_SETTINGS, **address.query}
    try:
        engine = create_engine(
            address.set(drivername="postgresql+psycopg", query=query),
            # Statements that the driver prepares do not survive a pooler that changes the server's session.
            connect_args={"prepare_threshold": None},
            pool_pre_ping=True,
        )
    except exc.ArgumentError:
        raise unreadable from None
    except ImportError as error:
        raise errors.InvalidSetting(
            f"a PostgreSQL registry needs the driver psycopg, which is not installed ({error}): "
            "pip install 'psycopg[binary]'"
        ) from error
    event.listen(engine, "begin", _begin)
    return engine


def counting(engine: Engine) -> Engine:
    """The same connections; what is written waits neither for the disk nor for other kinds of writers."""
    return engine.execution_options(writing=True, counting=True)


def count_within(connection: Connection) -> None:
    """Have a writing transaction wait for those that count, and have these wait for it."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_COUNTER})")


def make_ready(engine: Engine) -> None:
    """Check what a database must be before tables are made in it; raises InvalidSetting."""
    with engine.connect() as connection:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise errors.InvalidSetting(
            f"{shown(engine.url)}: its encoding is {encoding}, expected UTF8: "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def back_up(engine: Engine, version: int) -> None:
    """Say that the upgrade begins; a copy is for pg_dump to make."""
    log.info("%s is upgraded from schema version %d, in one transaction", shown(engine.url), version)


def shown(address: URL) -> str:
    """The URL without anything that could be secret."""
    plain = make_url("postgresql://").set(
        username=address.username, host=address.host, port=address.port, database=address.database
    )
    return plain.render_as_string()


def translate_error(error: exc.DBAPIError, where: str) -> errors.RegistryError:
    """What PostgreSQL's error means to a user; its codes are in the manual's appendix A."""
    code = getattr(error.orig, "sqlstate", None) or ""
    diagnosis = getattr(error.orig, "diag", None)
    parts = [getattr(diagnosis, part, None) for part in ("message_primary", "message_detail")]
    lines = [part for part in parts if part] or str(error.orig).splitlines()
    detail = "; ".join(line.strip() for line in lines)
    message = f"{where}: {detail}"
    if code.startswith(("22", "23")) or isinstance(error, exc.DataError):
        return errors.InvalidArtifact(f"the registry refused the record: {detail}")
    if code == "53100":
        return errors.StoreFull(
            f"{message}; nothing was recorded: free space on the server and run the same command again"
        )
    if code == "55P03":
        return errors.Conflict(
            f"{message}: another process has been writing for {LOCK_SECONDS} s; try again, "
            "and look at pg_stat_activity if it stays"
        )
    if code.startswith("40"):
        return errors.Conflict(f"{message}; nothing was recorded: try again")
    if code.startswith("XX001") or code.startswith("XX002"):
        return errors.Corrupt(f"{message}; restore the database from a backup")
    advice = next((text for start, text in _ADVICE.items() if code.startswith(start)), None)
    if advice is None and (error.connection_invalidated or not code or code.startswith(("08", "57P"))):
        advice = _BROKEN if error.connection_invalidated else _UNREACHABLE
    return errors.StoreFailed(f"{message}; {advice or 'nothing was recorded: look at the log of the server'}")


_ADVICE = {
    "25006": "the server is read-only (a standby?): name the primary in TUNELINE_DATABASE_URL",
    "42501": "have the role that owns the tables open the registry first, to create or upgrade them, and "
    "grant this one SELECT, INSERT and UPDATE on the tables, USAGE on the sequences, and DELETE on deletions "
    "for collections, on gateways, reservations and receipts for a gateway, on receipts and feedback for "
    "feeds, on sign_ins for the web interface",
    "53300": "the server has no connection left: try again, or raise its max_connections",
}
_UNREACHABLE = (
    "check that the server runs and can be reached, that the database exists (createdb --encoding=UTF8), and "
    "the user and password (TUNELINE_DATABASE_URL, PGPASSWORD or ~/.pgpass)"
)
_BROKEN = (
    "the connection broke: if that was within a commit, only the server knows whether it was recorded; "
    "run the same command again, which finds what is there"
)


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("writing"):
        counting = options.get("counting", False)
        connection.exec_driver_sql(_BEFORE_COUNTING if counting else _BEFORE_WRITING)
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_COUNTER if counting else _WRITER})")
