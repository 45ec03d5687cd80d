"""The database: a SQLite file, or PostgreSQL for teams; one writer at a time, errors translated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, exc, insert, inspect, make_url, select, update

from registry import errors
from registry.db import feed_tables, migrations, postgresql, serving_tables, sqlite, triggers
from registry.db import tables as schema


def now() -> str:
    """UTC with microseconds, in a form that sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class _Commits(Protocol):
    """Tells whether anybody committed."""

    def number(self) -> int | None: ...
    def close(self) -> None: ...


class _System(Protocol):
    """What a database system's module offers."""

    READING: dict[str, Any]

    @property
    def Commits(self) -> Callable[[Engine], _Commits]: ...
    def connect(self, address: URL) -> Engine: ...
    def counting(self, engine: Engine) -> Engine: ...
    def count_within(self, connection: Connection) -> None: ...
    def make_ready(self, engine: Engine) -> None: ...
    def back_up(self, engine: Engine, version: int) -> None: ...
    def translate_error(self, error: exc.DBAPIError, where: str) -> errors.RegistryError: ...


_SYSTEMS: Mapping[str, _System] = {"sqlite": sqlite, "postgresql": postgresql}


class Database:
    """Transactions on the registry's database. Closed and reopened at will; nothing is held in memory."""

    def __init__(self, engine: Engine) -> None:
        self._system = _SYSTEMS[engine.dialect.name]
        self.engine = engine
        self._reading = engine.execution_options(**self._system.READING)
        self._writing = engine.execution_options(writing=True)
        self._counting = self._system.counting(engine)
        sqlite_file = engine.dialect.name == "sqlite"
        self._where = str(engine.url.database) if sqlite_file else postgresql.shown(engine.url)

    @classmethod
    def open(cls, path: Path, url: str | None = None) -> Database:
        """Connect to `url` (default: the SQLite file `path`), creating the schema where there is none.

        A schema from an older Tuneline is upgraded. Raises InvalidSetting for a URL that cannot be used,
        StoreFailed where the database cannot be reached, RegistryError for a schema newer than this code.
        """
        address = _address(url) if url else URL.create("sqlite", database=str(path))
        database = cls(_SYSTEMS[address.get_backend_name()].connect(address))
        try:
            database._create_or_upgrade()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def version_at(cls, url: str) -> int | None:
        """The schema's version in a database, None where it has none; makes and upgrades nothing.

        Raises as `open` does for a URL that cannot be used and a database that cannot be reached.
        """
        address = _address(url)
        database = cls(_SYSTEMS[address.get_backend_name()].connect(address))
        try:
            with database.read() as connection:
                return _version(connection) if _has_schema(connection) else None
        finally:
            database.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with self._translated(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its first moment; committed at the end, durably."""
        with self._translated(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def count(self, within: Connection | None = None) -> Iterator[Connection]:
        """A writing transaction whose commit does not wait for the disk, for what requests wait for.

        All see at once what it wrote, and it outlives this process. The end of the machine (SQLite) or of the
        server (PostgreSQL) may take back the last moments: whole transactions, never a part of one. On
        PostgreSQL it waits for other such transactions only, and not for publications.

        `within`: a transaction of `write` that this is to be a part of. Until that one's end other such
        transactions wait, so that here too what is written is seen in the order of its numbers.
        """
        if within is not None:
            self._system.count_within(within)
            yield within
            return
        with self._translated(), self._counting.begin() as connection:
            yield connection

    def commits(self) -> int | None:
        """Another number once any process has committed; None where the database does not tell."""
        return self._commits.number()

    @cached_property
    def _commits(self) -> _Commits:
        return self._system.Commits(self.engine)

    def scrub(self) -> None:
        """Have SQLite's log hold nothing any more of what was overwritten; readers of now may delay that."""
        if self.engine.dialect.name == "sqlite":
            with self._translated(), self.engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def close(self) -> None:
        if "_commits" in self.__dict__:
            self._commits.close()
            del self._commits
        self._counting.dispose()
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise self._system.translate_error(error, self._where) from error
        except UnicodeEncodeError as error:
            raise errors.InvalidArtifact(
                f"{ascii(error.object)[:80]} holds {error.object[error.start]!a}, a lone surrogate (half a "
                "character), which no database stores; remove it"
            ) from None
        except exc.TimeoutError as error:
            raise errors.Conflict(
                f"{self._where}: every connection of this process is in use; try again"
            ) from error

    def _create_or_upgrade(self) -> None:
        with self.read() as connection:
            exists = _has_schema(connection)
        if not exists:
            with self._translated():
                self._system.make_ready(self.engine)
            with self.write() as connection:
                if not _has_schema(connection):
                    feed_tables.metadata.create_all(connection)  # one for all modules of tables
                    triggers.create(connection)
                    connection.execute(insert(schema.schema_version), {"only": 1, "version": schema.VERSION})
                    connection.execute(insert(serving_tables.serving_version), {"only": 1, "version": 0})
        with self.read() as connection:
            version = _version(connection)
        if migrations.can_upgrade(connection.dialect.name, version):
            version = self._upgrade()
        if version != schema.VERSION:
            raise errors.InvalidSetting(
                f"{self._where} has schema version {version}, this program knows {schema.VERSION}: "
                "use the Tuneline version that wrote it, or a newer one"
            )

    def _upgrade(self) -> int:
        with self.write() as connection:
            version = _version(connection)  # another process may have been faster
            if migrations.can_upgrade(connection.dialect.name, version):
                self._system.back_up(self.engine, version)
                migrations.upgrade(connection, version)
                connection.execute(update(schema.schema_version), {"version": schema.VERSION})
                version = schema.VERSION
        return version


def _address(url: str) -> URL:
    try:
        address = make_url(url)
        supported = address.get_backend_name() in _SYSTEMS
    except (exc.ArgumentError, exc.NoSuchModuleError, ValueError):
        supported = False
    if not supported:
        # The URL itself is not shown: where it cannot be read, nothing tells its password from the rest.
        raise errors.InvalidSetting(
            "unsupported database URL; expected sqlite:///PATH or "
            "postgresql://USER@HOST:PORT/DATABASE; unset TUNELINE_DATABASE_URL to use the default file"
        ) from None
    return address


def _has_schema(connection: Connection) -> bool:
    return inspect(connection).has_table(schema.schema_version.name)


def _version(connection: Connection) -> int:
    return int(connection.execute(select(schema.schema_version.c.version)).scalar_one())
