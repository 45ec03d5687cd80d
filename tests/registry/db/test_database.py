from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from registry import Artifact, Registry, Waiver
from registry.artifacts import BaseReference, QuantSpec
from registry.db import serving_tables
from registry.db import tables as schema
from registry.db.engine import now
from registry.db.tables import artifacts as table
from registry.errors import Corrupt, InvalidArtifact, InvalidSetting, StoreFailed
from tests.registry.backends import Backend, only
from tests.registry.conftest import USE
from tests.registry.servers import PostgreSQL, name_of

Publish = Callable[..., Artifact]


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
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        Registry.open(home).close()
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.2, "the others waited for a core"


def test_sqlite_is_durable_and_checks_references(home: Path) -> None:
    with Registry.open(home) as registry, registry.database.write() as connection:
        pragma = {
            p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("synchronous", "foreign_keys")
        }
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    assert pragma == {"synchronous": 2, "foreign_keys": 1}
    assert mode == "wal"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://someone:secret@db/x", "oracle+nodriver://someone:secret@db/x", "sqlite://",
        "sqlite:///:memory:", "secret", "postgresql:/someone:secret", "postgresql://someone:secret@db",
        "postgresql://someone:secret@x@db", "postgresql://a/secret@b/c",
    ],
)  # fmt: skip
def test_a_url_that_names_no_database_is_refused_without_showing_it(home: Path, url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"expected (sqlite|postgresql)://") as caught:
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


def _open_and_list(backend: Backend, start: Any) -> None:
    start.wait()
    with backend.open() as registry:
        assert registry.ls() == []


def race(backend: Backend) -> list[int | None]:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(8)
    processes = [context.Process(target=_open_and_list, args=(backend, start)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_eight_processes_create_one_registry(home: Path) -> None:
    assert race(Backend(home)) == [0] * 8


def test_eight_processes_create_one_registry_on_a_server(home: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.fresh()
    assert race(Backend(home, url)) == [0] * 8
    assert postgresql.sql("SELECT version FROM schema_version", name_of(url)) == [(schema.VERSION,)]
    postgresql.drop(url)


def fill(registry: Registry, publish: Publish) -> None:
    """At least one row in every table that nobody may change."""
    one, two = publish(registry, "one"), publish(registry, "two", parents=())
    publish(registry, "three", parents=({"relation": "trained_on", "id": one.id},))
    registry.gates.record(two.id, one.id, {}, "pass", {})
    registry.name(one.id, "first")
    registry.channels.move("team/prod", one.id, 0, waiver=Waiver("start", "me"))
    event = {"artifact_id": two.id, "action": "collected", "bytes": 3, "at": now()}
    policy = {
        "channel": "team/prod", "policy": "{}", "digest": "d" * 64, "who": "me", "reason": "new", "at": now()
    }  # fmt: skip
    with registry.database.write() as connection:
        connection.execute(insert(schema.content_events), event)
        connection.execute(insert(schema.channel_policies), policy)
    registry.tenants.add("acme", "team/prod", "me")
    rollout = {
        "channel": "team/prod", "number": 1, "action": "start", "generation": 1, "candidate": two.id,
        "canary_percent": 5.0, "shadow_percent": 0.0, "who": "me", "reason": "new", "at": now(),
        "previous_digest": "0" * 64, "digest": "d" * 64,
    }  # fmt: skip
    with registry.database.write() as connection:
        connection.execute(insert(serving_tables.rollout_events), rollout)


FOR_EVER = (
    "artifacts", "edges", "keys", "executions", "names", "content_events", "channel_policies",
    "gate_decisions", "channel_events", "tenant_events", "rollout_events",
)  # fmt: skip


def refused(registry: Registry, statement: str, match: str) -> None:
    with pytest.raises(InvalidArtifact, match=match), registry.database.write() as connection:
        connection.exec_driver_sql(statement)


@only("local")
def test_history_cannot_be_rewritten_by_any_statement(registry: Registry, publish: Publish) -> None:
    fill(registry, publish)
    sqlite = registry.database.engine.dialect.name == "sqlite"
    for name in FOR_EVER:
        table = schema.metadata.tables[name]
        with registry.database.read() as connection:
            before = connection.execute(select(table)).all()
        assert before, name
        column = table.columns.keys()[-1]
        for statement in (
            f"UPDATE {name} SET {column} = {column}",
            f"DELETE FROM {name}",
            f"INSERT OR REPLACE INTO {name} SELECT * FROM {name}" if sqlite else f"TRUNCATE {name} CASCADE",
        ):
            refused(registry, statement, "immutable")
        with registry.database.read() as connection:
            assert connection.execute(select(table)).all() == before
    refused(registry, "DELETE FROM channels", "never deleted")
    refused(registry, "UPDATE channels SET generation = generation + 2", "by one generation")
    refused(registry, "UPDATE channels SET generation = generation + 1, name = 'other/name'", "by one")


@only("local")
def test_the_database_itself_keeps_edges_pointing_back(registry: Registry, publish: Publish) -> None:
    old, young = publish(registry, "old"), publish(registry, "young")

    def edge(child: str, parent: str) -> None:
        with registry.database.write() as connection:
            row = {"child": child, "relation": "trained_on", "parent": parent}
            connection.execute(insert(schema.edges), row)

    for child, parent in ((old.id, young.id), (old.id, old.id)):
        with pytest.raises(InvalidArtifact, match="a parent is older than its child"):
            edge(child, parent)
    for child, parent in ((old.id, "f" * 64), ("f" * 64, old.id)):
        with pytest.raises(InvalidArtifact, match=r"(?i)foreign key"):
            edge(child, parent)
    edge(young.id, old.id)
    assert [(e.child, e.parent) for e in registry.lineage(young.id)] == [(young.id, old.id)]


@only("local")
@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("content_events", {"action": "lost"}), ("content_events", {"artifact_id": "f" * 64}),
        ("content_events", {"bytes": None}), ("channel_policies", {"who": ""}),
        ("channel_policies", {"reason": ""}), ("gate_decisions", {"verdict": "maybe"}),
        ("gate_decisions", {"signer": "e" * 64, "signature": None}),
        ("gate_decisions", {"signer": None, "signature": "abcd"}),
    ],
)  # fmt: skip
def test_rows_that_break_a_rule_are_refused(
    registry: Registry, publish: Publish, table: str, change: dict[str, object]
) -> None:
    fill(registry, publish)
    of = schema.metadata.tables[table]
    with registry.database.read() as connection:
        row = connection.execute(select(of)).one()._asdict()
    del row["sequence"]
    row = {**row, "id": "e" * 64} if "id" in row else row
    with pytest.raises(InvalidArtifact, match="refused the record"), registry.database.write() as connection:
        connection.execute(insert(of), {**row, **change})
    with registry.database.write() as connection:
        connection.execute(insert(of), row)


@only("local")
def test_numbers_beyond_32_bits(registry: Registry, publish: Publish) -> None:
    made = publish(registry, "one", use=replace(USE, peak_bytes=2**40))
    assert registry.executions(made.id)[0].peak_bytes == 2**40


@only("local")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("base_revision", None), ("base_revision", "main"), ("base_weights_digest", None),
        ("base_weights_digest", "abc"), ("base_tokenizer_digest", None), ("base_tokenizer_length", None),
        ("base_tokenizer_length", 0), ("base_embedding_rows", -1), ("base_chat_template_digest", None),
        ("base_architecture", None), ("base_source", None), ("quant_method", None),
        ("quant_requested", None), ("quant_effective", None), ("quant_toolchain", None),
        ("quant_merge_base", "8bit"), ("quant_calibration_dataset", "f" * 64), ("kind", "model"),
        ("kind", "quantized"), ("id", "abc"),
    ],
)  # fmt: skip
def test_the_database_itself_demands_base_and_quantization(
    registry: Registry, publish: Publish, base: BaseReference, plain: QuantSpec, column: str, value: object
) -> None:
    made = publish(registry, "base", kind="base", base=base, quant=plain)
    with registry.database.read() as connection:
        row = connection.execute(select(table).where(table.c.id == made.id)).one()._asdict()
    del row["sequence"]
    good = {**row, "id": "e" * 64}
    with pytest.raises(InvalidArtifact, match="refused the record"), registry.database.write() as connection:
        connection.execute(insert(table), {**good, column: value})
    with registry.database.write() as connection:
        connection.execute(insert(table), good)


@only("local")
def test_a_reader_does_not_wait_for_a_writer(registry: Registry, publish: Publish) -> None:
    made = publish(registry, "one")
    with registry.database.write() as connection:
        connection.execute(update(schema.leases), {"expires": 0.0})
        assert registry.ls() == [made]
