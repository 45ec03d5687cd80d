"""Runs of the real command, shared by the tests that look at them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.seconds import seconds

ROOT = Path(__file__).resolve().parents[2]


class Tuneline:
    """The command with a home of its own, as a user has it.

    Prefect is told of a run only where that is asked for: it costs as much as the rest of a short run.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    def environment(self, prefect: bool = False) -> dict[str, str]:
        return {**os.environ, "TUNELINE_HOME": str(self.home), "TUNELINE_PREFECT": str(prefect)}

    def __call__(
        self, *arguments: str, timeout: float = seconds(1500), prefect: bool = False
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("tuneline"), *arguments],
            env=self.environment(prefect),
            cwd=self.home.parent,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def json(self, *arguments: str, timeout: float = seconds(1500), prefect: bool = False) -> Any:
        """The one JSON document that a command prints; its exit code as `exit_code` where it is a mapping."""
        done = self(*arguments, "--json", timeout=timeout, prefect=prefect)
        assert done.stdout, f"exit code {done.returncode}: {done.stderr[-3000:]}"
        document = json.loads(done.stdout)
        if isinstance(document, dict):
            document.setdefault("exit_code", done.returncode)
        return document

    def stop_endpoints(self) -> None:
        for endpoint in self.json("endpoints", "ls"):
            self("endpoints", "stop", endpoint["id"])


@pytest.fixture(scope="session")
def tuneline_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Tuneline]]:
    homes: dict[str, Tuneline] = {}

    def home(name: str) -> Tuneline:
        return homes.setdefault(name, Tuneline(tmp_path_factory.mktemp(name) / "home"))

    yield home
    for tuneline in homes.values():
        tuneline.stop_endpoints()


@pytest.fixture(scope="session")
def pico(tuneline_home: Callable[[str], Tuneline]) -> tuple[Tuneline, dict[str, Any]]:
    """A finished run of the recipe `pico-smoke`."""
    tuneline = tuneline_home("pico")
    return tuneline, tuneline.json("run", "pico-smoke", prefect=True)


@pytest.fixture(scope="session")
def tenant(pico: tuple[Tuneline, dict[str, Any]]) -> tuple[Tuneline, dict[str, Any]]:
    """A finished run of the recipe `pico-tenant`, in the home of the one of `pico-smoke`."""
    return pico[0], pico[0].json("run", "pico-tenant")


def states(document: dict[str, Any]) -> dict[str, str]:
    """Label → ran, reused or failed."""
    return {row["label"]: row["state"] for row in document["stages"]}
