"""Upgrades of real databases: `data/schema-1.sql` is what version 0.1.0 held after its pico-smoke recipe."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry import Artifact, Registry, catalog, migrations, schema
from registry.errors import InvalidArtifact, RegistryError
from tests.registry.places import Place, only

OLD = Path(__file__).with_name("data") / "schema-1.sql"
TABLES = (
    "artifacts", "edges", "keys", "executions", "names", "leases", "gate_decisions", "channels",
    "channel_events", "endpoints",
)  # fmt: skip


@pytest.fixture
def old(home: Path) -> Path:
    """A home with the database that version 1 left."""
    home.mkdir()
    with closing(sqlite3.connect(home / "registry.db")) as connection:
        connection.executescript(OLD.read_text("utf-8"))
        connection.execute("PRAGMA journal_mode = WAL")
    return home


def rows(home: Path, name: str = "registry.db") -> dict[str, list[dict[str, Any]]]:
    with closing(sqlite3.connect(home / name)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]
            for table in TABLES
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
            with registry._database.read() as connection:
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
    monkeypatch.setitem(migrations.STEPS, 1, [*migrations.STEPS[1], "INSERT INTO nothing_such VALUES (1)"])
    with pytest.raises(RegistryError, match="nothing_such"):
        Registry.open(old)
    monkeypatch.undo()
    assert structure(old) == before
    assert version(old / "registry.db") == 1
    Registry.open(old).close()
    assert version(old / "registry.db") == schema.VERSION


@pytest.mark.parametrize("after", [0, 1, 7, len(migrations.STEPS[1])])
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
from registry import Registry, migrations

def until(statements, number):
    for at, statement in enumerate(statements):
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)
        yield statement
    os.kill(os.getpid(), signal.SIGKILL)

migrations.STEPS[1] = until(migrations.STEPS[1], int(sys.argv[2]))
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
        _, said = process.communicate(timeout=60)
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
    place: Place, publish: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.open() as registry:
        made = publish(registry, "one")
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    step = ["ALTER TABLE artifacts ADD COLUMN note TEXT", "UPDATE artifacts SET note = 'upgraded'"]
    monkeypatch.setitem(migrations.STEPS, schema.VERSION - 1, [*step, "SELECT nothing"])
    with pytest.raises(RegistryError, match="nothing"):
        place.open()
    monkeypatch.setitem(migrations.STEPS, schema.VERSION - 1, step)
    with place.open() as registry:
        assert registry.ls() == [made]
        for statement in ("UPDATE artifacts SET note = ''", "DELETE FROM keys"):
            with pytest.raises(InvalidArtifact, match="immutable"), registry._database.write() as connection:
                connection.exec_driver_sql(statement)
        with registry._database.read() as connection:
            assert connection.exec_driver_sql("SELECT note FROM artifacts").scalars().all() == ["upgraded"]
    monkeypatch.undo()
    with pytest.raises(RegistryError, match=f"version {schema.VERSION + 1}, this program knows"):
        place.open()


@pytest.mark.parametrize("found", [schema.VERSION + 1, 0])
def test_a_version_that_this_program_does_not_know_is_refused(old: Path, found: int) -> None:
    with closing(sqlite3.connect(old / "registry.db")) as connection:
        connection.execute("UPDATE schema_version SET version = ?", (found,))
        connection.commit()
    with pytest.raises(RegistryError, match=f"has schema version {found}, this program knows"):
        Registry.open(old)
    assert version(old / "registry.db") == found
    assert not (old / "registry.db.schema-1").exists()
