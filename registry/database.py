"""The database: SQLite with WAL and full synchronization, one writer at a time, errors in our words."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    exc,
    insert,
    inspect,
    make_url,
    select,
    update,
)

from registry import errors, migrations, schema
from registry.files import sync_directory, sync_file, translated

log = logging.getLogger("tuneline.registry")

BUSY_SECONDS = 60.0


def now() -> str:
    """UTC with microseconds, in a form that sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Database:
    """Transactions on the registry's database. Closed and reopened at will; nothing is held in memory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(writing=True)

    @classmethod
    def open(cls, path: Path, url: str | None = None) -> Database:
        """Connect to `url` (default: the SQLite file `path`), creating the schema where there is none.

        Raises RegistryError for a database system that is not supported or a schema newer than this code.
        """
        try:
            address = make_url(url) if url else URL.create("sqlite", database=str(path))
        except exc.ArgumentError as error:
            raise errors.RegistryError(
                f"the database URL is no URL; expected sqlite:///PATH: {error}"
            ) from None
        if address.get_backend_name() != "sqlite" or address.database in (None, "", ":memory:"):
            raise errors.RegistryError(
                f"database URL {address.render_as_string()!r}: expected sqlite:///PATH, "
                "the only database system that this version supports; "
                "unset TUNELINE_DATABASE_URL to use the default file"
            )
        engine = create_engine(address, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        database = cls(engine)
        try:
            database._create_or_check()
        except BaseException:
            engine.dispose()
            raise
        return database

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with _translated(self._engine), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its first moment; committed at the end, durably."""
        with _translated(self._engine), self._writing.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    def _create_or_check(self) -> None:
        with self.read() as connection:
            exists = inspect(connection).has_table(schema.schema_version.name)
        if not exists:
            self._enable_wal()
            with self.write() as connection:
                if not inspect(connection).has_table(schema.schema_version.name):
                    schema.metadata.create_all(connection)
                    schema.protect(connection)
                    connection.execute(insert(schema.schema_version), {"only": 1, "version": schema.VERSION})
        with self.read() as connection:
            found = _version(connection)
        if found in migrations.STEPS:
            with self.write() as connection:
                found = _version(connection)  # another process may have been faster
                if found in migrations.STEPS:
                    self._back_up(found)
                    migrations.upgrade(connection, found)
                    connection.execute(update(schema.schema_version), {"version": schema.VERSION})
                    found = schema.VERSION
        if found != schema.VERSION:
            raise errors.RegistryError(
                f"{self._engine.url.database} has schema version {found}, "
                f"this program knows {schema.VERSION}: use the Tuneline version that wrote it, or a newer one"
            )

    def _back_up(self, version: int) -> None:
        """Copy the file as it is, beside it; what the caller's transaction does is not in the copy."""
        path = Path(str(self._engine.url.database))
        copy, whole = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.schema-{version}")
        with translated(f"copying {path} before its upgrade"):
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

    def _enable_wal(self) -> None:
        # SQLite does not wait for its busy timeout here, so two processes that create one need a retry.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            raw = self._engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA journal_mode = WAL").close()
                return
            except Exception as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise errors.StoreFailed(
                        f"{self._engine.url.database}: cannot switch to WAL: {error}"
                    ) from error
                time.sleep(0.01)
            finally:
                raw.close()


def _version(connection: Connection) -> int:
    return int(connection.execute(select(schema.schema_version.c.version)).scalar_one())


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin in _begin, not by the driver's guess
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "recursive_triggers = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        raise _in_our_words(error, str(engine.url.database)) from error


def _in_our_words(error: exc.DBAPIError, where: str) -> errors.RegistryError:
    code = getattr(error.orig, "sqlite_errorname", "")
    said = f"{where}: {error.orig}"
    if isinstance(error, exc.IntegrityError):
        return errors.InvalidArtifact(f"the registry refused the record: {error.orig}")
    if code.startswith("SQLITE_FULL"):
        return errors.StoreFull(
            f"{said}; nothing became visible: free some space and run the same command again"
        )
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return errors.Conflict(f"{said} for {BUSY_SECONDS:.0f} s by another process; try again")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return errors.Corrupt(f"{said}; restore registry.db from a backup")
    return errors.StoreFailed(f"{said}; nothing became visible: check the disk and the permissions")
