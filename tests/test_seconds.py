"""Time limits of tests: they grow with the machine's slowness, and all of them go by it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import conftest
from tests import seconds as speed
from tests.seconds import FACTOR, MOST, PRODUCT_SECONDS, START_SECONDS, factor, seconds

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("start", "product", "expected"),
    [
        (START_SECONDS, PRODUCT_SECONDS, 1),
        (START_SECONDS / 4, PRODUCT_SECONDS / 4, 1),
        (START_SECONDS * 3, PRODUCT_SECONDS, 3),
        (START_SECONDS, PRODUCT_SECONDS * 2.5, 2.5),
        (START_SECONDS * 1000, PRODUCT_SECONDS, MOST),
    ],
    ids=["as written", "faster", "slow to start", "slow to compute", "stuck"],
)
def test_the_slower_of_both_counts_and_nothing_shrinks(start: float, product: float, expected: float) -> None:
    assert factor(start, product) == expected


def test_a_limit_grows_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FACTOR, "2.5")
    assert seconds(10) == 25


def test_a_test_without_a_limit_has_the_usual_one(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("timeout")
    assert marker is not None
    assert marker.args == (seconds(conftest.LONGEST),)


def test_what_was_measured_is_kept_for_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "KEPT", tmp_path / "cache" / "speed.json")
    monkeypatch.setattr(speed, "_probe", lambda: (4 * START_SECONDS, PRODUCT_SECONDS))
    monkeypatch.delenv(FACTOR)
    assert seconds(1) == 4
    assert os.environ[FACTOR] == "4.0", "whatever it starts goes by the same"
    monkeypatch.delenv(FACTOR)
    monkeypatch.setattr(speed, "_probe", lambda: (9 * START_SECONDS, PRODUCT_SECONDS))
    assert seconds(1) == 4
    monkeypatch.delenv(FACTOR)
    kept = json.loads(speed.KEPT.read_text())
    speed.KEPT.write_text(json.dumps({**kept, "at": time.time() - speed.KEPT_SECONDS}))
    assert seconds(1) == 9
    monkeypatch.delenv(FACTOR)
    speed.KEPT.write_text("{")
    assert seconds(1) == 9


def test_the_probe_measures_both() -> None:
    start, product = speed._probe()
    assert 0.02 < start < 60
    assert 0.001 < product < 60


def test_a_test_that_takes_longer_than_its_limit_ends(tmp_path: Path) -> None:
    """With the limit of a machine twice as slow, and not before."""
    file = tmp_path / "test_slow.py"
    file.write_text(
        "import threading, pytest\nfrom tests.seconds import seconds\n"
        "@pytest.mark.timeout(seconds(0.5))\ndef test_fits(): threading.Event().wait(0.7)\n"
        "@pytest.mark.timeout(seconds(0.5))\ndef test_hangs(): threading.Event().wait()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(file)]
    environment = {**os.environ, FACTOR: "2", "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "Timeout" in done.stdout


WAITS = {"wait", "join", "result", "settimeout", "timeout", "communicate"}
LIMITS = {"timeout", "ready_timeout", "connect_timeout", "read_timeout", "deadline"}


def bare(tree: ast.AST) -> list[int]:
    """Lines where a limit of a second or more is a bare number; shorter ones are pauses between two looks."""

    def number(node: ast.expr) -> bool:
        return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value >= 1

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = [k.value for k in node.keywords if k.arg in LIMITS]
            waits = isinstance(node.func, ast.Attribute) and node.func.attr in WAITS
            found += [one.lineno for one in named + (node.args[:1] if waits else []) if number(one)]
        if isinstance(node, ast.Compare) and "monotonic" in ast.dump(node.left):
            found += [one.lineno for one in node.comparators if number(one)]
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Add)
            and "monotonic" in ast.dump(node.left)
        ):
            found += [node.lineno] if number(node.right) else []
    return found


def test_all_limits_go_by_the_machine() -> None:
    seen = 0
    offenders = []
    for file in sorted(TESTS.rglob("*.py")):
        if "bench" in file.parts:
            continue
        text = file.read_text("utf-8")
        seen += "seconds(" in text
        offenders += [f"{file.relative_to(TESTS)}:{line}" for line in bare(ast.parse(text))]
    assert seen > 20, "the tests were not found"
    assert not offenders, "write seconds(…), of tests.seconds"
