"""Upgrades of real databases: `data/schema-1.sql` is what version 0.1.0 held after its pico-smoke recipe.

`data/schema-2.sql` is that one, upgraded by the code of schema 2 and used further;
`schema-2.postgresql.sql` is a registry that this code made on PostgreSQL.
"""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from registry import Artifact, Registry, Waiver, catalog
from registry.db import migrations
from registry.db import tables as schema
from registry.errors import InvalidArtifact, RegistryError
from registry.processes import ProcessId
from registry.tenancy.budgets import Ask
from registry.tenancy.outcomes import Outcome
from tests.registry.backends import Backend, only
from tests.registry.servers import PostgreSQL, name_of
from tests.seconds import seconds

DATA = Path(__file__).with_name("data")
TABLES = (
    "artifacts", "edges", "keys", "executions", "names", "leases", "gate_decisions", "channels",
    "channel_events", "endpoints",
)  # fmt: skip
TABLES_2 = (*TABLES, "content_events", "channel_policies")


@pytest.fixture
def old(home: Path) -> Path:
    """A home with the database that version 1 left."""
    return left_by(1, home)


def left_by(version: int, home: Path) -> Path:
    home.mkdir()
    with closing(sqlite3.connect(home / "registry.db")) as connection:
        connection.executescript((DATA / f"schema-{version}.sql").read_text("utf-8"))
        connection.execute("PRAGMA journal_mode = WAL")
    return home


def rows(
    home: Path, name: str = "registry.db", tables: Iterable[str] = TABLES
) -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(home / name)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]
            for table in tables
        }


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT version FROM schema_version").fetchone()[0])


def structure(home: Path) -> list[str]:
    """Every table, index and trigger, but for spaces and quotes."""
    with closing(sqlite3.connect(home / "registry.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not connection.execute("PRAGMA foreign_key_check").fetchall()
        found = connection.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master")
        return sorted(" ".join(re.sub(r'[\s"]+', "", part) for part in row) for row in found)


def test_the_fixture_holds_rows_everywhere(old: Path) -> None:
    assert version(old / "registry.db") == 1
    assert {table for table, held in rows(old).items() if not held} == set()


def test_an_upgraded_database_is_as_a_fresh_one_with_all_its_rows(old: Path, tmp_path: Path) -> None:
    before = rows(old)
    Registry.open(old).close()
    after = rows(old)
    for table in TABLES:
        added = set(after[table][0]) - set(before[table][0])
        assert added == {"leases": {"holds"}, "gate_decisions": {"signer", "signature"}}.get(table, set())
        assert [{c: v for c, v in row.items() if c not in added} for row in after[table]] == before[table]
        assert all(row[column] is None for row in after[table] for column in added)
    Registry.open(tmp_path / "fresh").close()
    assert structure(old) == structure(tmp_path / "fresh")


def test_schema_2_becomes_as_a_fresh_one_with_all_its_rows(home: Path, tmp_path: Path) -> None:
    old = left_by(2, home)
    before = rows(old, tables=TABLES_2)
    assert {table for table, held in before.items() if not held} == set()
    with Registry.open(old) as registry:
        used(registry)
    assert version(old / "registry.db.schema-2") == 2
    assert rows(old, "registry.db.schema-2", TABLES_2) == before
    with Registry.open(tmp_path / "fresh"):
        assert structure(old) == structure(tmp_path / "fresh")
    after = rows(old, tables=TABLES_2)
    for table in TABLES_2:
        kept = [row for row in after[table] if row in before[table]]
        assert len(kept) >= len(before[table]) - (table == "channels"), table


@only("postgresql", "local")
def test_schema_2_on_a_server_becomes_as_a_fresh_one(backend: Backend, postgresql: PostgreSQL) -> None:
    url = postgresql.fresh()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((DATA / "schema-2.postgresql.sql").read_bytes())

    def held() -> dict[str, list[tuple[Any, ...]]]:
        return {
            table: postgresql.sql(f"SELECT * FROM {table} ORDER BY 1, 2, 3", name_of(url))
            for table in TABLES_2
        }

    before = held()
    assert {table for table, found in before.items() if not found} == set()
    Registry.open(backend.home, url).close()
    assert held() == before
    backend.open().close()
    copies = []
    for source in (url, str(backend.database_url)):  # a dump writes some conditions in another way
        copies.append(postgresql.fresh())
        postgresql.copy(source, copies[-1])
    upgraded, fresh = (postgresql.structure(copy) for copy in copies)
    assert upgraded == fresh
    with Registry.open(backend.home, url) as registry:
        used(registry)
    for one in (url, *copies):
        postgresql.drop(one)


def test_what_gateways_counted_before_stays(home: Path) -> None:
    """As version 7 left it: rows without the counts of version 8."""
    old = left_by(2, home)
    with closing(sqlite3.connect(old / "registry.db")) as connection:
        for number in range(2, 7):
            for statement in migrations.statements("sqlite", number):
                connection.execute(statement)
        base = connection.execute("SELECT id FROM artifacts WHERE kind = 'base'").fetchone()[0]
        values = (
            5,
            "team/prod",
            1,
            base,
            "live",
            "2026-11-29T10:00+00:00",
            9,
            2,
            1,
            7,
            8,
            0,
            0,
            "[1.5]",
            "[]",
        )
        connection.execute(f"INSERT INTO outcomes VALUES ({', '.join('?' * len(values))})", values)
        connection.execute("UPDATE schema_version SET version = 7")
        connection.commit()
    with Registry.open(old) as registry:
        ((number, row),) = registry.outcomes.added("team/prod", 1)
    assert (number, row.requests, row.failed, row.truncated, row.latencies_ms) == (5, 9, 2, 1, [1.5])
    assert (row.checked, row.not_json, row.rated, row.disliked) == (0, 0, 0, 0)


def used(registry: Registry) -> None:
    """Every table of serving takes its rows, beside those that were there."""
    current = registry.channels.get("team/prod")
    assert current is not None
    base = registry.ls("base")[0]
    registry.tenants.add("acme", "team/prod", "ada")
    registry.rollouts.start("team/prod", base.id, 5, 0, "ada", "why")
    gateway = registry.budgets.open_gateway("here", ProcessId(1, 1.0))
    asked = Ask("0" * 32, "acme", 5, 10, "2026-11-22")
    assert registry.budgets.reserve(gateway, [asked, asked._replace(reservation="1" * 32, tokens=6)]) == [
        True, False,
    ]  # fmt: skip
    counted = {
        "channel": "team/prod",
        "generation": 1,
        "artifact_id": base.id,
        "arm": "canary",
        "requests": 1,
    }
    registry.outcomes.add([Outcome(**counted, minute=datetime.now(UTC))])
    seen = registry.serving_version()
    registry.channels.move("team/prod", base.id, current.generation, waiver=Waiver("worth it", "ada"))
    assert registry.rollouts.current("team/prod") is None
    assert registry.serving_version() == seen + 1
    assert len(registry.channels.history("team/prod")) == current.generation + 1
    assert len(registry.tenants.audit()) == len(registry.rollouts.history("team/prod")) == 1


def test_an_upgraded_database_takes_a_quantization_method_of_later(old: Path) -> None:
    Registry.open(old).close()
    with closing(sqlite3.connect(old / "registry.db")) as connection:
        found = connection.execute("SELECT * FROM artifacts WHERE kind = 'quantized'")
        row = dict(zip((column[0] for column in found.description), found.fetchone(), strict=True))
        row |= {"sequence": None, "id": "f" * 64, "quant_method": "awq"}
        new_backend = ", ".join(f":{name}" for name in row)
        connection.execute(f"INSERT INTO artifacts ({', '.join(row)}) VALUES ({new_backend})", row)


def test_what_was_recorded_is_still_there_for_those_who_ask(old: Path) -> None:
    with Registry.open(old) as registry:
        live = registry.get("pico/smoke")
        assert live.name == "pico-smoke"
        assert [event.action for event in registry.channels.history("pico/smoke")] == [
            "move", "move", "rollback",
        ]  # fmt: skip
        assert {edge.relation for edge in registry.lineage(live.id)} >= {"quantized", "merge", "adapter"}
        assert registry.gates.latest(live.id) is not None
        for artifact in registry.ls():
            with registry.database.read() as connection:
                assert catalog.record_problems(connection, artifact.id) == []
            for run in registry.executions(artifact.id):
                assert registry.find(run.key) == artifact


def test_a_copy_is_left_beside(old: Path) -> None:
    before = rows(old)
    Registry.open(old).close()
    assert version(old / "registry.db.schema-1") == 1
    assert rows(old, "registry.db.schema-1") == before
    assert sorted(p.name for p in old.iterdir() if p.is_file()) == ["registry.db", "registry.db.schema-1"]


def test_an_upgrade_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = structure(old)
    broken = [*migrations.statements("sqlite", 1), "INSERT INTO nothing_such VALUES (1)"]
    monkeypatch.setattr(migrations, "statements", lambda system, version: broken)
    with pytest.raises(RegistryError, match="nothing_such"):
        Registry.open(old)
    monkeypatch.undo()
    assert structure(old) == before
    assert version(old / "registry.db") == 1
    Registry.open(old).close()
    assert version(old / "registry.db") == schema.VERSION


@pytest.mark.parametrize("after", [0, 1, 7, len(migrations.statements("sqlite", 1))])
def test_kill_9_in_the_middle_leaves_the_old_version(old: Path, after: int) -> None:
    before, held = structure(old), rows(old)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(old), str(after)], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert version(old / "registry.db") == 1
    assert structure(old) == before
    assert rows(old) == held
    Registry.open(old).close()
    assert version(old / "registry.db") == schema.VERSION


KILLED = """
import os, signal, sys
from pathlib import Path
from registry import Registry; from registry.db import migrations

def until(statements, number):
    for at, statement in enumerate(statements):
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)
        yield statement
    os.kill(os.getpid(), signal.SIGKILL)

found = migrations.statements("sqlite", 1)
migrations.statements = lambda system, version: until(found, int(sys.argv[2]))
Registry.open(Path(sys.argv[1]))
"""


def test_two_processes_upgrade_at_once(old: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from registry import Registry; sys.stdin.readline(); "
    code += "Registry.open(Path(sys.argv[1])).close()"
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(old)], stdin=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        _, said = process.communicate(timeout=seconds(60))
        assert process.returncode == 0, said
    Registry.open(tmp_path / "fresh").close()
    assert structure(old) == structure(tmp_path / "fresh")
    assert version(old / "registry.db.schema-1") == 1, "the copy is of before, whoever was second"


def test_no_room_for_the_copy(old: Path) -> None:
    (old / "registry.db.part").mkdir()
    with pytest.raises(RegistryError, match="before its upgrade"):
        Registry.open(old)
    assert version(old / "registry.db") == 1


@only("local")
def test_an_upgrade_to_come_works_on_both_systems(
    backend: Backend, publish: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with backend.open() as registry:
        made = publish(registry, "one")
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    step = ["ALTER TABLE artifacts ADD COLUMN note TEXT", "UPDATE artifacts SET note = 'upgraded'"]
    monkeypatch.setattr(migrations, "UPGRADES", tmp_path)
    for system in ("sqlite", "postgresql"):
        upgrade = tmp_path / f"from-{schema.VERSION - 1}.{system}.sql"
        upgrade.write_text(";\n".join([*step, "SELECT nothing;\n"]))
    with pytest.raises(RegistryError, match="nothing"):
        backend.open()
    for upgrade in tmp_path.glob("from-*.sql"):
        upgrade.write_text(";\n".join(step))
    with backend.open() as registry:
        assert registry.ls() == [made]
        for statement in ("UPDATE artifacts SET note = ''", "DELETE FROM keys"):
            with pytest.raises(InvalidArtifact, match="immutable"), registry.database.write() as connection:
                connection.exec_driver_sql(statement)
        with registry.database.read() as connection:
            assert connection.exec_driver_sql("SELECT note FROM artifacts").scalars().all() == ["upgraded"]
    monkeypatch.undo()
    with pytest.raises(RegistryError, match=f"version {schema.VERSION + 1}, this program knows"):
        backend.open()


@pytest.mark.parametrize("found", [schema.VERSION + 1, 0])
def test_a_version_that_this_program_does_not_know_is_refused(old: Path, found: int) -> None:
    with closing(sqlite3.connect(old / "registry.db")) as connection:
        connection.execute("UPDATE schema_version SET version = ?", (found,))
        connection.commit()
    with pytest.raises(RegistryError, match=f"has schema version {found}, this program knows"):
        Registry.open(old)
    assert version(old / "registry.db") == found
    assert not (old / "registry.db.schema-1").exists()
