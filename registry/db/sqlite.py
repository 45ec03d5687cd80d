"""SQLite: one file with a write-ahead log, every commit on the disk before it is reported."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc

from registry import errors
from registry.store.files import sync_directory, sync_file, wrap_os_errors

log = logging.getLogger("tuneline.registry")

BUSY_SECONDS = 60.0
READING: dict[str, Any] = {}


def connect(address: URL) -> Engine:
    """An engine for the file that the URL names; raises InvalidSetting for a URL without one."""
    if address.database in (None, "", ":memory:"):
        raise errors.InvalidSetting(
            f"database URL {address}: expected sqlite:///PATH with the path of a file"
        )
    return _engine(address.set(drivername="sqlite"), "FULL")


def counting(engine: Engine) -> Engine:
    """An engine for the same file whose commits leave it to the next checkpoint to wait for the disk."""
    return _engine(engine.url, "NORMAL").execution_options(writing=True)


def count_within(_connection: Connection) -> None:
    """Nothing: there is one writer at a time."""


def _engine(address: URL, synchronous: str) -> Engine:
    engine = create_engine(address, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", partial(_configure, synchronous))
    event.listen(engine, "begin", _begin)
    return engine


class Commits:
    """Counts others' commits to the file on a connection of its own, in microseconds; for several threads."""

    def __init__(self, engine: Engine) -> None:
        self._turn = threading.Lock()
        self._connection = sqlite3.connect(str(engine.url.database), check_same_thread=False)

    def number(self) -> int | None:
        """Another one after each commit; None where the file does not tell."""
        try:
            with self._turn:
                return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None

    def close(self) -> None:
        self._connection.close()


def make_ready(engine: Engine) -> None:
    """Switch a new file to its write-ahead log."""
    # SQLite does not wait for its busy timeout here, so two processes that create one need a retry.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL").close()
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise errors.StoreFailed(f"{engine.url.database}: cannot switch to WAL: {error}") from error
            time.sleep(0.01)
        finally:
            raw.close()


def back_up(engine: Engine, version: int) -> None:
    """Copy the file as it is to one beside it; what an open transaction does is not in the copy."""
    path = Path(str(engine.url.database))
    copy, whole = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.schema-{version}")
    with wrap_os_errors(f"copying {path} before its upgrade"):
        copy.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        except sqlite3.Error as error:
            raise errors.StoreFailed(f"{copy}: {error}; {path} was not upgraded: make room") from error
        sync_file(copy)
        copy.rename(whole)
        sync_directory(path.parent)
    log.info("%s is upgraded from schema version %d; %s is as it was", path, version, whole)


def translate_error(error: exc.DBAPIError, where: str) -> errors.RegistryError:
    """What SQLite's error means to a user."""
    code = getattr(error.orig, "sqlite_errorname", "")
    message = f"{where}: {error.orig}"
    if isinstance(error, exc.IntegrityError):
        return errors.InvalidArtifact(f"the registry refused the record: {error.orig}")
    if code.startswith("SQLITE_FULL"):
        return errors.StoreFull(
            f"{message}; nothing was recorded: free some space and run the same command again"
        )
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return errors.Conflict(f"{message} for {BUSY_SECONDS:.0f} s by another process; try again")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return errors.Corrupt(f"{message}; restore {Path(where).name} from a backup")
    return errors.StoreFailed(f"{message}; nothing was recorded: check the disk and the permissions")


def _configure(synchronous: str, connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin in _begin, not by the driver's guess
    # secure_delete: what was forgotten is overwritten in the file, not only left out of every answer.
    pragmas = ("foreign_keys = ON", "recursive_triggers = ON", "secure_delete = ON")
    for pragma in (f"synchronous = {synchronous}", *pragmas):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
