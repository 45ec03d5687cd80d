from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from registry import Artifact, Registry, Waiver
from registry.artifacts import BaseReference, QuantSpec
from registry.errors import Corrupt, InvalidArtifact, RegistryError, StoreFailed
from registry.schema import artifacts as table

Publish = Callable[..., Artifact]


def raw(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(home / "registry.db", isolation_level=None)


def test_importing_the_registry_loads_nothing_heavy() -> None:
    heavy = "torch numpy transformers pyarrow prefect pandas"
    code = (
        "import sys, registry.artifacts; assert 'sqlalchemy' not in sys.modules\n"
        "from registry import Registry\n"
        f"print([m for m in {heavy.split()!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_is_fast(home: Path) -> None:
    Registry.open(home).close()
    begun = time.perf_counter()
    Registry.open(home).close()
    assert time.perf_counter() - begun < 0.2


def test_sqlite_is_durable_and_checks_references(registry: Registry, home: Path) -> None:
    with registry._database.write() as connection:
        pragma = {
            p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("synchronous", "foreign_keys")
        }
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    assert pragma == {"synchronous": 2, "foreign_keys": 1}
    assert mode == "wal"


@pytest.mark.parametrize(
    "url", ["postgresql://someone:secret@db/x", "sqlite://", "sqlite:///:memory:", "secret"]
)
def test_another_database_system_is_refused_without_showing_the_password(home: Path, url: str) -> None:
    with pytest.raises(RegistryError, match="expected sqlite:///PATH") as caught:
        Registry.open(home, url)
    assert "secret" not in str(caught.value)


def test_a_database_elsewhere(home: Path, tmp_path: Path, publish: Publish) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    with Registry.open(home, url) as registry:
        made = publish(registry, "one")
    assert not (home / "registry.db").exists()
    with Registry.open(home, url) as registry:
        assert registry.get(made.id) == made


def test_a_file_that_is_no_database(home: Path) -> None:
    home.mkdir()
    (home / "registry.db").write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(Corrupt, match=r"registry\.db"):
        Registry.open(home)


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreFailed, match="check the disk and the permissions"):
        Registry.open(tmp_path / "file" / "home")


def _open_and_name(home: Path, results: Any) -> None:
    with Registry.open(home) as registry:
        results.put(registry.ls())


def test_eight_processes_create_one_registry(home: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=_open_and_name, args=(home, results)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8


def test_history_cannot_be_rewritten_even_by_another_program(
    registry: Registry, home: Path, publish: Publish
) -> None:
    one, two = publish(registry, "one"), publish(registry, "two", relations=())
    publish(registry, "three", relations=({"relation": "trained_on", "id": one.id},))
    registry.gates.record(two.id, one.id, {}, "pass", {})
    registry.name(one.id, "first")
    registry.channels.move("team/prod", one.id, 0, waiver=Waiver("start", "me"))
    connection = raw(home)
    for name in ("artifacts", "edges", "keys", "executions", "names", "gate_decisions", "channel_events"):
        before = connection.execute(f"SELECT * FROM {name}").fetchall()
        assert before, name
        column = connection.execute(f"PRAGMA table_info({name})").fetchall()[-1][1]
        for statement in (
            f"UPDATE {name} SET {column} = 'x'",
            f"DELETE FROM {name}",
            f"INSERT OR REPLACE INTO {name} SELECT * FROM {name}",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="immutable"):
                connection.execute(statement)
        assert connection.execute(f"SELECT * FROM {name}").fetchall() == before
    with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
        connection.execute("DELETE FROM channels")
    with pytest.raises(sqlite3.IntegrityError, match="by one generation"):
        connection.execute("UPDATE channels SET generation = generation + 2")
    connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("base_revision", None), ("base_revision", "main"), ("base_weights_digest", None),
        ("base_weights_digest", "abc"), ("base_tokenizer_digest", None), ("base_tokenizer_length", None),
        ("base_tokenizer_length", 0), ("base_embedding_rows", -1), ("base_chat_template_digest", None),
        ("base_architecture", None), ("base_source", None), ("quant_method", None), ("quant_method", "int5"),
        ("quant_requested", None), ("quant_effective", None), ("quant_toolchain", None),
        ("quant_merge_base", "8bit"), ("quant_calibration_dataset", "f" * 64), ("kind", "model"),
        ("kind", "quantized"), ("id", "abc"),
    ],
)  # fmt: skip
def test_the_database_itself_demands_base_and_quantization(
    registry: Registry, publish: Publish, base: BaseReference, plain: QuantSpec, column: str, value: object
) -> None:
    made = publish(registry, "base", facts_kind="base", base=base, quant=plain)
    with registry._database.read() as connection:
        row = connection.execute(select(table).where(table.c.id == made.id)).one()._asdict()
    del row["sequence"]
    good = {**row, "id": "e" * 64}
    with pytest.raises(InvalidArtifact, match="refused the record"), registry._database.write() as connection:
        connection.execute(insert(table), {**good, column: value})
    with registry._database.write() as connection:
        connection.execute(insert(table), good)


def test_a_reader_does_not_wait_for_a_writer(registry: Registry, publish: Publish) -> None:
    made = publish(registry, "one")
    with registry._database.write() as connection:
        connection.exec_driver_sql("UPDATE leases SET expires = 0")
        assert registry.ls() == [made]
