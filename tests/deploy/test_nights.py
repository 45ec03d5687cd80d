"""Nights at a reduced size: by real schedules, Prefect and two workers, also while they are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.seconds import seconds

LONGEST = 3000.0


@pytest.mark.deploy
@pytest.mark.timeout(seconds(LONGEST))
def test_a_night_comes_to_the_same_whoever_is_killed(tree: Path) -> None:
    command = [sys.executable, "-m", "tests.reliability.nights", "--tenants", "6", "--kills", "6"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=seconds(LONGEST))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
