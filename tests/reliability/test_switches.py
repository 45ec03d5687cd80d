"""The trial that switches checks off, at a reduced size: `python -m tests.reliability.switches` runs all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.reliability import switches
from tests.seconds import seconds

UNGUARDED = """
import sys
from tests.reliability import switches
idle = switches.Switch(
    "a check that nobody guards", "flows/ladder/checks.py", "LOST_ANSWERS = 0.05", "LOST_ANSWERS = 0.0500",
    (switches.LADDER,),
)
switches.switches = lambda: [idle]
sys.exit(switches.main())
"""


def run(root: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, *words], cwd=root, capture_output=True, text=True, timeout=seconds(300)
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_every_switch_fits_the_source_as_it_is() -> None:
    every = switches.switches()
    assert len({switch.name for switch in every}) == len(every) >= 150
    for switch in every:
        compile(switch.source, switch.file, "exec")
        assert all((switches.ROOT / test.partition("::")[0]).is_file() for test in switch.tests)


def test_a_switch_that_no_longer_fits_is_an_error() -> None:
    moved = switches.Switch("moved", "flows/gates/gate.py", "no such line", "", (switches.GATE,))
    with pytest.raises(ValueError, match=r"'no such line' is 0 times in flows/gates/gate\.py, expected once"):
        _ = moved.source


def test_checks_that_are_switched_off_are_noticed(pytestconfig: pytest.Config) -> None:
    chosen = ("gates/thresholds: size", "gates/gate: contaminated items fail", "ladder/checks: double BOS")
    code, report = run(pytestconfig.rootpath, "-m", "tests.reliability.switches", "--only", *chosen)
    assert code == 0, report
    assert report["by"].keys() == set(chosen)
    assert report["by"]["gates/thresholds: size"] == f"{switches.THRESHOLDS}::test_ceilings"


def test_a_check_that_nobody_guards_is_told(pytestconfig: pytest.Config) -> None:
    code, report = run(pytestconfig.rootpath, "-c", UNGUARDED)
    assert code == 1
    said = report["unnoticed"]["a check that nobody guards"]
    assert (said["code"], said["failed"], said["reached"]) == (0, [], True)
    assert said["passed"] > 40
