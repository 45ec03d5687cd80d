"""The reliability trials at a reduced size; each command in this folder runs them at full size."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest


def run(pytestconfig: pytest.Config, module: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.reliability.{module}", *arguments]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_kill_9_at_every_point_and_identical_publishes(pytestconfig: pytest.Config) -> None:
    report = run(pytestconfig, "publish", "--trials", "22", "--processes", "4")
    killed = report["killed"]
    named = {
        name: count
        for name, count in killed.items()
        if name.startswith("killed at ") and "moment" not in name
    }
    assert set(named.values()) == {2}
    assert len(named) == 10
    assert killed["visible after the kill"] >= 2, "those killed after the commit are visible"
    assert report["together, a key each"]["published"] == 4
    assert report["together, one key"]["published"] >= 1


def test_eight_processes_on_one_channel(pytestconfig: pytest.Config) -> None:
    report = run(pytestconfig, "channels", "--processes", "8", "--rounds", "15")
    assert (report["won"], report["lost"], report["events"]) == (15, 105, 15)
