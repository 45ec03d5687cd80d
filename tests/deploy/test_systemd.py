"""systemd's units: systemd finds no fault in them and counts them as closed, and what they start answers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from flows.stack.programs import Places
from flows.stack.supervise import Program, is_well
from flows.stack.tenant import prepare
from serving.engine.naming import model_alias
from tests.seconds import seconds

TREE = Path(__file__).resolve().parents[2]
UNITS = TREE / "deploy" / "systemd"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))
INSTALLED = "/opt/tuneline/.venv/bin"
MOST_EXPOSED = 2.0
"""Of systemd's 0 (closed) to 10; a service without any of it has 9.6."""

pytestmark = pytest.mark.deploy


def settings(name: str) -> list[tuple[str, str]]:
    """Key and value of each line of the unit, those that all units share first."""
    texts = [(UNITS / "tuneline-.service.d" / "common.conf").read_text(), (UNITS / name).read_text()]
    lines = [line for text in texts for line in text.splitlines()]
    return [(key, value) for key, mark, value in (line.partition("=") for line in lines) if mark]


def command(name: str) -> str:
    (found,) = [value for key, value in settings(name) if key == "ExecStart"]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file system with the units where systemd looks for them, and the programs that they name."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree("/lib/systemd/system", root / "usr" / "lib" / "systemd" / "system", symlinks=True)
    (root / "lib").symlink_to("usr/lib")
    shutil.copytree(UNITS, root / "etc" / "systemd" / "system", dirs_exist_ok=True)
    for path in {shlex.split(command(name))[0] for name in NAMES}:
        assert (Path(sys.executable).parent / Path(path).name).is_file(), path
        program = root / path.lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return root


def analyze(root: Path, *arguments: str) -> str:
    """What systemd-analyze prints; an error without it, as this is what the marker `deploy` promises."""
    whole = ["systemd-analyze", *arguments[:1], f"--root={root}", *arguments[1:]]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=seconds(60))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_no_fault(root: Path, name: str) -> None:
    assert analyze(root, "verify", name.replace("@", "@one")) == ""  # a word of doubt is no failure to it
    threshold = f"--threshold={round(MOST_EXPOSED * 10)}"
    said = analyze(root, "security", "--offline=true", threshold, name.replace("@", "@one"))
    assert "Overall exposure level" in said


def test_systemd_would_find_a_fault(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "root"
    shutil.copytree(root, other, symlinks=True)
    shared = other / "etc" / "systemd" / "system" / "tuneline-.service.d" / "common.conf"
    shared.write_text(shared.read_text().replace("ProtectClock", "ProtectClok"))
    assert "ProtectClok" in analyze(other, "verify", "tuneline-ui.service")


class Machine:
    """Starts the units' commands, with their folders in one of the test's and other ports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports: dict[str, str] = {}
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []
        for name in ("etc/engines", "run"):
            (folder / name).mkdir(parents=True)

    def port(self, declared: str) -> str:
        """The free port that stands in for one that a unit declares."""
        if declared not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports[declared] = str(free.getsockname()[1])
        return self._ports[declared]

    def here(self, text: str) -> str:
        """A unit's text for this machine."""
        for there, path in (
            (INSTALLED, Path(sys.executable).parent),
            ("/opt/tuneline", TREE),
            ("/var/lib/tuneline", self._folder / "home"),
            ("/etc/tuneline", self._folder / "etc"),
            ("/run/", f"{self._folder / 'run'}/"),
        ):
            text = text.replace(there, str(path))
        ports = r"((?:--port[= ]|127\.0\.0\.1:))(\d+)"
        return re.sub(ports, lambda match: match[1] + self.port(match[2]), text)

    def environment(self, name: str, instance: str = "") -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"]}
        for key, value in settings(name):
            if key == "Environment":
                environment.update(pair.split("=", 1) for pair in shlex.split(self.here(value)))
            elif key == "EnvironmentFile" and "%i" in value:
                lines = Path(self.here(value.replace("%i", instance))).read_text().splitlines()
                environment.update(line.split("=", 1) for line in lines)
        return environment

    def start(self, name: str, instance: str, well: Callable[[], bool]) -> None:
        environment = self.environment(name, instance)
        # As under systemd; what a shell runs in the background ignores SIGINT, by which Prefect ends itself.
        words = ["env", "--default-signal=INT"]
        words += [
            re.sub(r"\$\{(\w+)\}", lambda match: environment[match[1]], word)
            for word in shlex.split(self.here(command(name)))
        ]
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                words, env=environment, stdout=file, stderr=file, cwd=TREE, start_new_session=True
            )
        self._started.append((process, log))
        limit = time.monotonic() + seconds(120)
        while not well():
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < limit, log.read_text()[-2000:]
            time.sleep(0.2)

    def stop(self) -> list[str]:
        """End all as systemd does; returns the last words of those that did not end by themselves."""
        stubborn = []
        for process, log in reversed(self._started):
            process.terminate()
            try:
                process.wait(seconds(30))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                stubborn.append(f"{process.args}: {log.read_text()[-1000:]}")
        return stubborn


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    yield machine
    assert machine.stop() == []


@pytest.fixture(scope="module")
def key(machine: Machine, pico_home: Path) -> str:
    """A tenant's key; the gateway's file is where its unit says, with the ports that stand in."""
    shutil.copytree(pico_home, machine.here("/var/lib/tuneline"), symlinks=True)
    places = Places(Path(machine.here("/etc/tuneline")), 8720)
    key = prepare(places, machine.environment("tuneline-gateway.service")).read_text().strip()
    serve = places.folder / "serve.yaml"
    text = serve.read_text()
    for name, declared in (("gateway", "8080"), ("operations", "9090")):
        text = text.replace(f"port: {places.port(name)}", f"port: {machine.port(declared)}")
    serve.write_text(text)
    return key


def answers(address: str) -> Callable[[], bool]:
    return lambda: is_well(Program("unit", (), well=address))


def ask(port: str, key: str, model: str) -> httpx.Response:
    return httpx.post(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
        timeout=seconds(60),
    )


def test_the_gateways_unit_answers_a_tenant(machine: Machine, key: str) -> None:
    operations = f"http://127.0.0.1:{machine.port('9090')}/readyz"
    machine.start("tuneline-gateway.service", "", answers(operations))
    assert ask(machine.port("8080"), key, "pico/tenant").status_code == 200


def is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def test_the_engines_unit_answers(machine: Machine, key: str) -> None:
    files = [path for path in Path(machine.here("/var/lib/tuneline/blobs")).rglob("*") if path.is_file()]
    model = max((path for path in files if is_gguf(path)), key=lambda path: path.stat().st_size)
    alias, port = model_alias("0" * 64), machine.port("8081")
    given = f"MODEL={model}\nALIAS={alias}\nPORT={port}\n"
    (Path(machine.here("/etc/tuneline")) / "engines" / "one.env").write_text(given)
    machine.start("tuneline-engine@.service", "one", answers(f"http://127.0.0.1:{port}/health"))
    assert ask(port, "none", alias).status_code == 200


@pytest.mark.parametrize(("name", "port", "path"), [("ui", "8710", "alive"), ("metrics", "9091", "healthz")])
def test_the_pages_units_answer(machine: Machine, key: str, name: str, port: str, path: str) -> None:
    machine.start(f"tuneline-{name}.service", "", answers(f"http://127.0.0.1:{machine.port(port)}/{path}"))


def test_the_worker_is_heard_by_the_server(machine: Machine) -> None:
    server = f"http://127.0.0.1:{machine.port('4200')}"
    machine.start("tuneline-prefect.service", "", answers(f"{server}/api/health"))
    html = {"accept": "text/html"}
    page = httpx.get(f"{server}/dashboard", headers=html, follow_redirects=True, timeout=seconds(20))
    assert page.status_code == 200
    assert list(Path(machine.here("/run/tuneline-prefect")).rglob("index.html"))
    workers = f"{server}/api/work_pools/tuneline/workers/filter"
    machine.start("tuneline-worker.service", "", lambda: bool(online(workers)))


def online(address: str) -> list[str]:
    found = httpx.post(address, json={}, timeout=seconds(10))
    if found.status_code == 404:
        return []  # the worker makes the pool
    return [worker["name"] for worker in found.raise_for_status().json() if worker["status"] == "ONLINE"]
