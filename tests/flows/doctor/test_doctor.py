"""`tuneline doctor`, on things that are really broken."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
from pathlib import Path

import pytest

from flows import cli
from flows.doctor import places, software, stack
from flows.doctor.finding import Finding
from flows.planning.machine import Machine
from flows.settings import Settings
from registry import Registry
from registry.db import tables as schema


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    Registry.open(tmp_path / "home").close()
    return Settings()


def _set_version(settings: Settings, version: int) -> None:
    with sqlite3.connect(settings.root / "registry.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute("UPDATE schema_version SET version = ?", (version,))
    connection.close()


def test_a_sound_registry_and_store(settings: Settings) -> None:
    assert places.registry(settings).state == "ok"
    assert f"schema {schema.VERSION}, 0 artifacts" in places.registry(settings).found
    assert places.store(settings).state == "ok"


@pytest.mark.parametrize(("step", "state"), [(1, "fail"), (-1, "warn")])
def test_a_schema_of_another_version(step: int, state: str, settings: Settings) -> None:
    _set_version(settings, schema.VERSION + step)
    found = places.registry(settings)
    assert (found.state, bool(found.remedy)) == (state, True)
    assert f"schema {schema.VERSION + step}" in found.found


def test_a_registry_that_is_none(settings: Settings) -> None:
    (settings.root / "registry.db").write_bytes(b"no database" * 100)
    assert places.registry(settings).state == "fail"


def test_a_store_that_cannot_be_written(settings: Settings) -> None:
    blobs = settings.root / "blobs"
    kept = blobs.rename(blobs.with_name("moved"))
    blobs.write_text("a file where the folder was")
    found = places.store(settings)
    assert (found.state, str(blobs) in found.found) == ("fail", True)
    blobs.unlink()
    kept.rename(blobs)
    blobs.chmod(0o500)
    if os.geteuid() != 0:  # the system refuses root nothing
        assert places.store(settings).state == "fail"
    blobs.chmod(0o700)


def test_a_home_that_no_folder_can_be(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_HOME", "/proc/tuneline")
    assert places.disk(Settings()).state == "fail"


def test_packages_against_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# exact\npydantic==1.0\nno-such-package==2.0 ; python_version < '3'\nnot-there==3.1\n")
    found = software.packages(lock)
    assert (found.state, "pydantic" in found.found) == ("warn", True)
    assert "not-there missing (locked 3.1)" in found.found
    assert "no-such-package" not in found.found


def test_a_package_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["pydantic>=999", "not-there", "only-elsewhere; extra == 'dev'"]
    monkeypatch.setattr(software.metadata, "requires", lambda _: asked)
    found = software.packages()
    assert found.state == "fail"
    assert "not-there is not installed" in found.found
    assert "wanted >=999" in found.found
    assert "only-elsewhere" not in found.found


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(places, "API_PORT", taken.getsockname()[1])
        assert places.ports().state == "warn"


def test_little_memory_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Machine(memory_available=1_000_000_000, disk_free=0, cpu_count=2, cuda=(("H100", 80 << 30),))
    assert places.memory(small).state == "warn"
    assert "H100" in places.gpu(small).found


def test_vllm_that_is_named_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(software.VARIABLE, "/nowhere/python")
    assert software.vllm().state == "fail"


def test_a_database_elsewhere_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("TUNELINE_DATABASE_URL", f"postgresql://me:hush@127.0.0.1:{port}/none")
    found = places.registry(Settings())
    assert (found.state, "hush" in found.found, bool(found.remedy)) == ("fail", False, True)


def test_a_store_elsewhere_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_STORE_URL", f"file://{tmp_path}")
    assert places.store(Settings()).state == "ok"
    monkeypatch.setenv("TUNELINE_STORE_URL", f"file://{tmp_path}/nowhere")
    assert places.store(Settings()).state == "fail"


def test_a_store_that_gives_no_answer_is_not_called_well(monkeypatch: pytest.MonkeyPatch) -> None:
    hushed = threading.Event()
    monkeypatch.setattr(places.Store, "missing", lambda *_: hushed.wait())
    monkeypatch.setattr(places, "STORE_SECONDS", 0.05)
    monkeypatch.setenv("TUNELINE_STORE_URL", "memory://shelf")
    assert places.store(Settings()).state == "warn"
    hushed.set()


def test_packages_that_do_not_go_with_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.prefect(start=False).state == "ok"
    have = software._version
    monkeypatch.setattr(software, "_version", lambda name: "2.1.9" if name == "sqlalchemy" else have(name))
    found = software.prefect(start=False)
    assert (found.state, "sqlalchemy is 2.1.9, wanted <2.1" in found.found) == ("fail", True)


def test_a_stack_that_does_not_run_and_one_that_is_broken(settings: Settings) -> None:
    assert stack.looks(settings) == []
    remembered = settings.root.parent / "first-port"
    remembered.write_text("8720")
    ((subject, look),) = stack.looks(settings)
    assert (subject, look().state, "does not run" in look().found) == ("stack", "ok", True)
    remembered.write_text("not a port")
    ((_, look),) = stack.looks(settings)
    assert (look().state, str(remembered) in look().found) == ("fail", True)


def test_a_stack_is_found_from_within_and_from_beside_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere" / ".stack"
    folder.mkdir(parents=True)
    (folder / "first-port").write_text("8720")
    for here in (folder, folder.parent):
        monkeypatch.chdir(here)
        ((_, look),) = stack.looks(settings)
        assert str(folder) in look().found


def test_the_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in ((places, "arithmetic"), (software, "prefect"), (software, "vllm")):
        monkeypatch.setattr(module, name, lambda *_: Finding("replaced", "ok", "slow, and tested elsewhere"))
    monkeypatch.setattr(software, "packages", lambda: Finding("packages", "warn", "not as locked", "again"))
    assert cli.main(["doctor", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [one["state"] for one in checks if one["subject"] == "registry"] == ["ok"]

    def broken() -> Finding:
        raise ImportError("no module named x")

    monkeypatch.setattr(software, "python", broken)
    assert cli.main(["doctor"]) == 3
    assert "fail  python      ImportError: no module named x" in capsys.readouterr().out


def test_a_version_is_compared_as_pip_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.metadata, "version", lambda _: "v0.0.21")
    assert software._version("grafana-foundation-sdk") == "0.0.21"
