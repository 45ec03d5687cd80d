"""Programs that are started, and ended with the test."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.seconds import seconds

CHECKOUT = Path(__file__).resolve().parents[3]
TUNELINE = (sys.executable, "-m", "flows.cli")
DEBIAN = {"prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager"}
DEBIAN |= {"faketime": "faketime", "unshare": "util-linux"}
"""Program → the Debian package that has it."""


class Processes:
    """Starts programs in an environment; each writes its log into `folder`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self.environment = {**os.environ, **environment}
        self._ends = ExitStack()

    def start(self, name: str, *command: str, first_line: bool = True, **more: str) -> Started:
        """Start it; with `first_line`, wait for the one of JSON that Tuneline's servers print."""
        with (self._folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE if first_line else log,
                stderr=log,
                text=True,
                cwd=CHECKOUT,
                env={**self.environment, **more},
            )
        self._ends.callback(end, process)
        if not first_line:
            return Started(process, {})
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{name} did not start: {(self._folder / f'{name}.log').read_text()[-3000:]}"
        return Started(process, json.loads(line))

    def tuneline(self, *words: str, before: Sequence[str] = (), codes: Sequence[int] = (0,)) -> Any:
        """What a command prints as JSON; `before`: what it is started through."""
        command = [*before, *TUNELINE, *words, "--json"]
        done = subprocess.run(
            command, env=self.environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=seconds(600)
        )
        assert done.returncode in codes, (words, done.returncode, done.stdout[-2000:], done.stderr[-3000:])
        return json.loads(done.stdout)

    def close(self) -> None:
        """End all that still runs, the last first."""
        self._ends.close()


class Started:
    """A program that runs, and what it said first."""

    def __init__(self, process: subprocess.Popen[str], said: dict[str, Any]) -> None:
        self.process, self.said = process, said

    @property
    def target(self) -> str:
        """Where it listens, as Prometheus names it."""
        return str(self.said["url"]).removeprefix("http://").partition("/")[0]


def end(process: subprocess.Popen[str]) -> None:
    """End it, if it still runs, and wait for that."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds(20))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_programs() -> None:
    """An error that names the Debian packages of what is not here, as the marker `deploy` promises."""
    missing = [package for program, package in DEBIAN.items() if shutil.which(program) is None]
    assert not missing, f"apt-get install {' '.join(missing)}"
