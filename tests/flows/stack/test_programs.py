"""What the stack would start: on loopback only, each on a port of its own, secrets in no command line."""

from __future__ import annotations

import configparser
import os
import socket
import time
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from flows.errors import Usage
from flows.stack import programs as stack
from flows.stack.databases import write_private
from flows.stack.programs import (
    PORTS,
    Places,
    Program,
    made,
    programs,
    refuse_missing,
    refuse_taken_ports,
)
from flows.stack.supervise import configuration, is_well

SECRET = "50%-secret"
ENVIRONMENT = {"TUNELINE_DATABASE_URL": f"postgresql://tuneline:{SECRET}@127.0.0.1:8720/postgres"}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "stack", 8720)


@pytest.fixture
def parts(places: Places, monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    monkeypatch.setattr(stack, "postgresql_programs", lambda: Path("/usr/lib/postgresql/15/bin"))
    return list(programs(places, ENVIRONMENT, "postgres"))


def test_every_part_has_a_port_of_its_own_on_loopback(parts: list[Program]) -> None:
    ports = [part.port for part in parts if part.port is not None]
    assert len(set(ports)) == len(ports) == len(parts) - 2  # these two listen nowhere
    assert [part.name for part in parts if part.port is None] == ["worker", "judge"]
    assert len(set(PORTS)) == len(PORTS)
    for part in parts:
        assert "0.0.0.0" not in " ".join(part.command)
        assert part.well is None or part.well.startswith("http://127.0.0.1:")


def test_secrets_are_in_no_command_line(parts: list[Program]) -> None:
    assert not any(SECRET in word for part in parts for word in part.command)


def test_the_supervisor_reads_what_is_written_for_it(places: Places, parts: list[Program]) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(configuration(places, parts))
    sections = [name for name in parser.sections() if name.startswith("program:")]
    assert sections == [f"program:{part.name}" for part in parts]
    for name in sections:
        assert parser[name]["autorestart"] == "true"
        assert parser[name]["autostart"] == "false"
    assert parser["program:api"]["environment"].count("%%") == 1
    assert parser["program:postgresql"]["user"] == "postgres"


def test_what_is_missing_is_named_with_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_is_there", lambda program: program == "postgres")
    with pytest.raises(Usage, match="apt-get install prometheus prometheus-alertmanager"):
        refuse_missing()


def test_a_port_that_another_has_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Usage, match=f"port {port}, for postgresql, is not free"):
            refuse_taken_ports(Places(tmp_path, port))


def test_what_is_private_appears_whole_and_for_its_owner(tmp_path: Path) -> None:
    (tmp_path / ".secrets.json").write_text("of one that was killed")
    write_private(tmp_path / "secrets.json", "{}")
    assert (tmp_path / "secrets.json").read_text() == "{}"
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.json"]


def test_what_does_not_answer_is_not_well(places: Places) -> None:
    assert not is_well(Program("api", ("x",), 1, "http://127.0.0.1:1/healthz"))
    assert not is_well(Program("postgresql", ("x",), 1))
    assert not is_well(Program("worker", ("x",), heard="http://127.0.0.1:1/workers"))


@pytest.mark.parametrize(("touched", "well"), [(-1.0, True), (-20.0, False), (-60.0, False), (None, False)])
def test_what_touches_its_file_is_well(touched: float | None, well: bool, tmp_path: Path) -> None:
    """Seconds from now; the program started 10 s ago."""
    file, now = tmp_path / "judge.alive", time.time()
    if touched is not None:
        file.touch()
        os.utime(file, (now + touched, now + touched))
    assert is_well(Program("judge", ("x",), touched=file), now - 10.0) is well


def test_a_program_that_touched_nothing_for_long_is_not_well(tmp_path: Path) -> None:
    file = tmp_path / "judge.alive"
    file.touch()
    os.utime(file, (time.time() - 60.0, time.time() - 60.0))
    assert not is_well(Program("judge", ("x",), touched=file), time.time() - 3600.0)


HEARD = "2026-11-29T10:00:30.5Z"
BEFORE, AFTER = (datetime.fromisoformat(HEARD).timestamp() + seconds for seconds in (-30.0, 30.0))


@pytest.mark.parametrize(
    ("worker", "started", "well"),
    [
        ({"name": "worker", "status": "ONLINE", "last_heartbeat_time": HEARD}, BEFORE, True),
        ({"name": "worker", "status": "ONLINE", "last_heartbeat_time": HEARD}, AFTER, False),
        ({"name": "worker", "status": "OFFLINE", "last_heartbeat_time": HEARD}, BEFORE, False),
        ({"name": "another", "status": "ONLINE", "last_heartbeat_time": HEARD}, BEFORE, False),
    ],
)
def test_a_worker_is_well_once_prefect_heard_from_it(
    worker: dict[str, str], started: float, well: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = httpx.Response(200, json=[worker], request=httpx.Request("POST", "http://127.0.0.1/"))
    monkeypatch.setattr(httpx, "post", lambda *_, **__: answer)
    assert is_well(Program("worker", ("x",), heard="http://127.0.0.1/workers"), started) is well


def test_a_folder_whose_port_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert made(tmp_path) is None
    (tmp_path / "first-port").write_text("8720\n")
    assert made(tmp_path) == Places(tmp_path, 8720)
    (tmp_path / "first-port").write_text("")
    with pytest.raises(Usage, match="first-port holds no port number"):
        made(tmp_path)
