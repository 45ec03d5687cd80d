"""What only a server can do to us."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from registry import Artifact, Registry, Waiver
from registry.db import postgresql
from registry.db.engine import Database
from registry.db.tables import VERSION, edges
from registry.errors import (
    Conflict,
    Corrupt,
    InvalidArtifact,
    InvalidSetting,
    RegistryError,
    StoreFailed,
    StoreFull,
)
from registry.gc.reachability import RetentionPolicy
from tests.registry import servers
from tests.registry.backends import Backend, only
from tests.registry.servers import PostgreSQL, name_of
from tests.seconds import seconds

Publish = Callable[..., Artifact]
SECRET = "pa/ss:w@rd?secret"
ESCAPED = "pa%2Fss%3Aw%40rd%3Fsecret"
on_postgresql = only("postgresql", "local")


@pytest.fixture
def own_server() -> Iterator[PostgreSQL]:
    """One that a test may stop."""
    with servers.postgresql() as server:
        yield server


def said(error: BaseException) -> str:
    """Everything that a traceback would print."""
    parts, seen = [], error
    while seen is not None:
        parts.append(f"{type(seen).__name__}: {seen}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)  # type: ignore[assignment]
    return "\n".join(parts)


def test_the_missing_driver_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidSetting, match=r"pip install 'psycopg\[binary\]'"):
        Registry.open(home, "postgresql://someone@127.0.0.1/x")


def test_sqlite_does_not_load_the_driver(home: Path) -> None:
    code = "import sys; from pathlib import Path; from registry import Registry\n"
    code += f"Registry.open(Path({str(home)!r})).close(); print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_a_server_that_is_not_there(home: Path) -> None:
    url = f"postgresql://someone:{ESCAPED}@127.0.0.1:{closed_port()}/x?sslpassword=secret"
    with pytest.raises(StoreFailed, match="check that the server runs and can be reached") as caught:
        Registry.open(home, url)
    assert "secret" not in said(caught.value)
    assert "postgresql://someone@127.0.0.1:" in str(caught.value)


def test_a_server_that_never_answers(home: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://someone@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2"
        with pytest.raises(StoreFailed, match="timeout expired"):
            Registry.open(home, url)


def test_passwords_are_taken_and_never_shown(
    home: Path, postgresql: PostgreSQL, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql.fresh(template)
    postgresql.sql("DROP ROLE IF EXISTS guarded")
    postgresql.sql(f"CREATE ROLE guarded SUPERUSER LOGIN PASSWORD '{SECRET}'")
    guarded = url.replace("owner@", f"guarded:{ESCAPED}@")
    with Registry.open(home, guarded) as registry:
        assert registry.ls() == []
        with pytest.raises(InvalidArtifact) as refused, registry.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM artifacts; INSERT INTO channels VALUES (NULL)")
        assert "secret" not in said(refused.value)
        assert "secret" not in repr(registry.database.engine)
    with pytest.raises(StoreFailed, match=r"password authentication failed.*PGPASSWORD") as caught:
        Registry.open(home, guarded.replace("ss%3A", "ss%3Asecret"))
    assert "secret" not in said(caught.value)
    monkeypatch.setenv("PGPASSWORD", SECRET)
    Registry.open(home, url.replace("owner@", "guarded@")).close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("test_", "none_such_"), "does not exist; .*createdb"),
        (("?host=", "?no_such_option=secret&host="), "invalid connection option"),
        (("?host=", "?port=secret&host="), "the database URL cannot be read"),
    ],
)
def test_a_database_that_cannot_be_opened(
    home: Path, postgresql: PostgreSQL, change: tuple[str, str], expected: str
) -> None:
    with pytest.raises(RegistryError, match=expected):
        Registry.open(home, postgresql.url("test_x").replace(*change))


def test_another_encoding_is_refused(home: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.fresh(encoding="SQL_ASCII")
    with pytest.raises(InvalidSetting, match="its encoding is SQL_ASCII, expected UTF8"):
        Registry.open(home, url)
    assert not postgresql.sql("SELECT 1 FROM pg_tables WHERE schemaname = 'public'", name_of(url))
    postgresql.drop(url)


def test_a_newer_schema_is_refused(home: Path, postgresql: PostgreSQL, template: str) -> None:
    url = postgresql.fresh(template)
    postgresql.sql("UPDATE schema_version SET version = 99", name_of(url))
    with pytest.raises(RegistryError, match="has schema version 99, this program knows"):
        Registry.open(home, url)
    postgresql.drop(url)


@on_postgresql
def test_a_connection_that_breaks_within_a_transaction(
    registry: Registry, backend: Backend, postgresql: PostgreSQL, publish: Publish
) -> None:
    def lose(end: str) -> None:
        with registry.database.write() as connection:
            connection.exec_driver_sql("UPDATE leases SET expires = 0")
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            postgresql.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
            if end == "statement":
                connection.exec_driver_sql("SELECT 1")

    publish(registry, "before")
    for end in ("statement", "commit"):
        with pytest.raises(StoreFailed, match="only the server knows"):
            lose(end)
    assert len(registry.ls()) == 1
    publish(registry, "after")
    assert not postgresql.sql("SELECT 1 FROM leases WHERE expires = 0", database(backend))


def database(backend: Backend) -> str:
    assert backend.database_url is not None
    return name_of(backend.database_url)


def test_a_server_that_crashes_and_comes_back(home: Path, own_server: PostgreSQL, publish: Publish) -> None:
    with Registry.open(home, own_server.fresh()) as registry:
        made = publish(registry, "one")
        moved = registry.channels.move("team/prod", made.id, 0, waiver=Waiver("first", "me"))
        own_server.stop(signal.SIGQUIT)
        with pytest.raises(StoreFailed, match="check that the server runs"):
            registry.ls()
        own_server.start()
        assert registry.ls() == [made]
        assert registry.channels.get("team/prod") == moved
        assert registry.channels.history("team/prod")[0].generation == 1


@on_postgresql
def test_a_writer_that_stays_too_long_is_a_conflict(
    registry: Registry, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_BEFORE_WRITING", postgresql._BEFORE_WRITING.replace("'60s'", "'50ms'"))
    with backend.open() as other, other.database.write(), pytest.raises(Conflict, match="try again"):
        registry.name("f" * 64, "x")
    assert registry.ls() == []


@on_postgresql
def test_a_killed_writer_gives_the_lock_back(registry: Registry, backend: Backend, publish: Publish) -> None:
    code = (
        "import sys; from pathlib import PosixPath; from tests.registry.backends import Backend\n"
        f"with {backend!r}.open().database.write() as connection:\n"
        "    connection.exec_driver_sql('UPDATE leases SET expires = 0')\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "locked\n"
    made: list[Artifact] = []
    waiting = threading.Thread(target=lambda: made.append(publish(registry, "one")))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive(), "one writer at a time"
    os.kill(holder.pid, signal.SIGKILL)
    waiting.join(seconds(30))
    assert registry.ls() == made
    holder.communicate()


@on_postgresql
@pytest.mark.parametrize(
    ("state", "kind", "match"),
    [
        ("disk_full", StoreFull, "free space on the server"),
        ("serialization_failure", Conflict, "try again"),
        ("deadlock_detected", Conflict, "try again"),
        ("too_many_connections", StoreFailed, "max_connections"),
        ("data_corrupted", Corrupt, "from a backup"),
        ("io_error", StoreFailed, "log of the server"),
        ("unique_violation", InvalidArtifact, "refused the record"),
    ],
)
def test_what_the_server_says_is_said_in_our_words(
    registry: Registry, backend: Backend, postgresql: PostgreSQL, publish: Publish,
    state: str, kind: type[RegistryError], match: str,
) -> None:  # fmt: skip
    postgresql.sql(
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE {state} "
        "USING MESSAGE = 'the server failed'; END $$; "
        "CREATE TRIGGER fail BEFORE INSERT ON executions FOR EACH ROW EXECUTE FUNCTION fail()",
        database(backend),
    )
    with pytest.raises(kind, match=match) as caught:
        publish(registry, "one")
    assert type(caught.value) is kind
    assert "the server failed" in str(caught.value)
    assert registry.ls() == []
    postgresql.sql("DROP TRIGGER fail ON executions", database(backend))
    made = publish(registry, "one")
    assert registry.ls() == [made]


@on_postgresql
def test_a_server_that_only_reads(
    registry: Registry, backend: Backend, postgresql: PostgreSQL, publish: Publish
) -> None:
    made = publish(registry, "one")
    postgresql.sql(f"ALTER DATABASE {database(backend)} SET default_transaction_read_only = on")
    registry.close()
    assert registry.ls() == [made]
    with pytest.raises(StoreFailed, match="name the primary"):
        registry.channels.move("team/prod", made.id, 0, waiver=Waiver("first", "me"))


@on_postgresql
def test_text_that_postgresql_cannot_hold(registry: Registry, publish: Publish) -> None:
    made = publish(registry, "one")
    with pytest.raises(InvalidArtifact):
        registry.channels.move("team/prod", made.id, 0, waiver=Waiver("a\0b", "me"))
    assert registry.channels.get("team/prod") is None


@on_postgresql
def test_a_commit_waits_for_the_disk_whatever_the_default(
    registry: Registry, backend: Backend, postgresql: PostgreSQL
) -> None:
    for default, expected in (("off", "on"), ("remote_apply", "remote_apply")):
        postgresql.sql(f"ALTER DATABASE {database(backend)} SET synchronous_commit = {default}")
        registry.close()
        with registry.database.write() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == expected
    postgresql.sql(f"ALTER DATABASE {database(backend)} RESET synchronous_commit")
    registry.close()


@on_postgresql
def test_readers_see_one_state(registry: Registry, backend: Backend, publish: Publish) -> None:
    with backend.open() as other, registry.database.read() as connection:
        count = "SELECT count(*) FROM artifacts"
        before = connection.exec_driver_sql(count).scalar_one()
        publish(other, "meanwhile")
        assert connection.exec_driver_sql(count).scalar_one() == before == 0
    assert len(registry.ls()) == 1


@on_postgresql
def test_a_role_that_may_only_use_the_tables(
    registry: Registry, backend: Backend, postgresql: PostgreSQL, publish: Publish, key: Callable[[str], str]
) -> None:
    def sql(statement: str) -> Any:
        return postgresql.sql(statement, database(backend))

    assert backend.database_url is not None
    sql("DROP ROLE IF EXISTS runner")
    sql("CREATE ROLE runner LOGIN")
    url = backend.database_url.replace("owner@", "runner@")
    with pytest.raises(StoreFailed, match="grant this one SELECT, INSERT and UPDATE"):
        Registry.open(backend.home, url)
    sql("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO runner")
    sql("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO runner")
    with Registry.open(backend.home, url) as restricted:
        made = publish(restricted, "one")
        restricted.name(made.id, "first")
        restricted.channels.move("team/prod", made.id, 0, waiver=Waiver("first", "me"))
        assert restricted.find(key("one")) == registry.get("team/prod")
        for statement in ("ALTER TABLE artifacts DISABLE TRIGGER ALL", "DROP TABLE keys CASCADE"):
            with (
                pytest.raises(StoreFailed, match="must be owner"),
                restricted.database.write() as connection,
            ):
                connection.exec_driver_sql(statement)
        publish(restricted, "two")
        with pytest.raises(StoreFailed, match="and DELETE on deletions"):
            restricted.collect(RetentionPolicy(days=0), delete=True)
        sql("GRANT DELETE ON deletions TO runner")
        assert restricted.collect(RetentionPolicy(days=0), delete=True).blobs.count == 1
    sql("DROP OWNED BY runner")
    sql("DROP ROLE runner")


def test_a_dump_is_a_backup(home: Path, postgresql: PostgreSQL, template: str, publish: Publish) -> None:
    url, restored = postgresql.fresh(template), postgresql.fresh()
    with Registry.open(home, url) as registry:
        parent = publish(registry, "parent")
        child = publish(registry, "child", parents=({"relation": "trained_on", "id": parent.id},))
        registry.channels.move("team/prod", child.id, 0, waiver=Waiver("first", "me"))
        history = registry.channels.history("team/prod")
    postgresql.copy(url, restored)
    with Registry.open(home, restored) as registry:
        assert registry.ls() == [child, parent]
        assert registry.verify(child.id) == []
        assert registry.channels.history("team/prod") == history
        assert publish(registry, "more").id == registry.ls(limit=1)[0].id
        for statement in ("DELETE FROM edges", "TRUNCATE artifacts CASCADE"):
            with pytest.raises(InvalidArtifact, match="immutable"), registry.database.write() as connection:
                connection.exec_driver_sql(statement)
        back = {"child": parent.id, "relation": "trained_on", "parent": child.id}
        with pytest.raises(InvalidArtifact, match="older"), registry.database.write() as connection:
            connection.execute(insert(edges), back)
    for one in (url, restored):
        postgresql.drop(one)


def test_two_registries_in_one_database(home: Path, postgresql: PostgreSQL, publish: Publish) -> None:
    url = postgresql.fresh()
    made = []
    for name in ("one", "two"):
        postgresql.sql(f"CREATE SCHEMA {name}", name_of(url))
        with Registry.open(home / name, f"{url}&options=-csearch_path%3D{name}") as registry:
            assert registry.ls() == []
            made.append(publish(registry, name))
            assert registry.ls() == made[-1:]
    postgresql.drop(url)


def test_the_server_ends_with_a_killed_test_run() -> None:
    code = (
        "from tests.registry.servers import postgresql; import sys\n"
        "with postgresql() as server:\n"
        "    print(server.process.pid, server.folder, flush=True); sys.stdin.read()\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert run.stdout is not None
    pid, folder = run.stdout.readline().split()
    descriptor = os.pidfd_open(int(pid))
    run.kill()
    run.communicate()
    assert select.select([descriptor], [], [], 20)[0], "the server outlived the run"
    os.close(descriptor)
    shutil.rmtree(folder)


def test_a_look_at_a_database_makes_nothing(postgresql: PostgreSQL, template: str) -> None:
    url = postgresql.fresh()
    assert Database.version_at(url) is None
    assert Database.version_at(url) is None, "the look before made a schema"
    assert Database.version_at(postgresql.fresh(template)) == VERSION
