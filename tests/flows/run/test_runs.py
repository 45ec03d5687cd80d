"""`tuneline runs`: past runs and those under way, also one that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.execute import as_json
from flows.report.report import RunReport, StageRow
from flows.run.runs import begin, past_runs
from registry import Registry

Tell = Callable[..., tuple[int, Any, str]]
STARTED = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    Registry.open(tmp_path / "home").close()
    return tmp_path / "home"


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Exit code, JSON document and standard error of a command."""

    def command(*words: str) -> tuple[int, Any, str]:
        code = cli.main([*words, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return command


def finished(home: Path, run_id: str, code: int, gate: str | None, failed: bool = False) -> Path:
    """What a run that came to its end leaves."""
    folder = home / "runs" / run_id
    lock = begin(folder, "demo", STARTED)
    rows = [StageRow("resolve base", "resolve", "a" * 64, "ran", 2.0, 1000)]
    rows += [StageRow("train adapter", "train", None, "failed", 1.0, None, "no room")] if failed else []
    report = RunReport("demo", run_id, STARTED, 83.0, rows, gate=gate and {"verdict": gate, "rules": []})
    (folder / "report.json").write_text(json.dumps({**as_json(report), "exit_code": code}))
    (folder / "report.html").write_text("<html>")
    os.close(lock)
    return folder


def test_states_of_runs_that_ended(home: Path, tell: Tell) -> None:
    finished(home, "20260301-093000-aaaaaa", 0, "pass")
    finished(home, "20260302-093000-bbbbbb", 1, "fail")
    finished(home, "20260303-093000-cccccc", 3, None, failed=True)
    finished(home, "20260304-093000-dddddd", 130, None, failed=True)
    code, runs, _ = tell("runs", "ls")
    assert code == 0
    assert [(run["state"], run["verdict"], run["stage"]) for run in runs] == [
        ("interrupted", None, "train adapter"),
        ("failed", None, "train adapter"),
        ("done", "fail", None),
        ("done", "pass", None),
    ]
    assert runs[3] == {
        "id": "20260301-093000-aaaaaa", "recipe": "demo", "state": "done",
        "started": "2026-03-01T09:30:00+00:00",
        "seconds": 83.0, "stage": None, "verdict": "pass",
        "report": str(home / "runs" / "20260301-093000-aaaaaa" / "report.html"),
    }  # fmt: skip
    finished(home, "20260305-093000-eeeeee", 0, None)
    assert [run["id"] for run in tell("runs", "--limit", "1")[1]] == ["20260305-093000-eeeeee"]
    gates = [run.gate for run in past_runs(home)]
    assert gates == ["not asked", "–", "–", "fail", "pass"], "a failed run did not come to its gate"


def test_a_run_under_way_and_then_killed(home: Path, tell: Tell) -> None:
    folder = home / "runs" / "20260305-093000-eeeeee"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "train-adapter.log").write_text("step 1")
    (folder / "logs" / "prefect.log").write_text("")
    program = (
        "import sys; from datetime import *; from pathlib import Path; from flows.run.runs import begin;"
        "begin(Path(sys.argv[1]), 'demo', datetime.now(UTC)); print('begun', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        _, [under_way], _ = tell("runs")
        assert (under_way["state"], under_way["stage"]) == ("running", "train adapter")
        child.send_signal(signal.SIGKILL)
        child.wait()
    _, [killed], _ = tell("runs")
    assert (killed["state"], killed["report"]) == ("killed", None)
    assert tell("runs", "open")[0] == 3
    assert tell("runs", "show")[1]["state"] == "killed"


def test_runs_of_earlier_versions_are_listed(home: Path, tell: Tell) -> None:
    old = finished(home, "20260301-093000-aaaaaa", 0, "pass")
    (old / "run.json").unlink()
    (home / "runs" / "20260302-093000-bbbbbb" / "logs").mkdir(parents=True)
    (home / "runs" / "20260303-093000-cccccc").mkdir()
    damaged = finished(home, "20260304-093000-dddddd", 0, "pass")
    (damaged / "report.json").write_text('{"recipe": "demo", "sta')
    assert [(run["id"][-6:], run["state"]) for run in tell("runs")[1]] == [
        ("dddddd", "killed"), ("bbbbbb", "killed"), ("aaaaaa", "done"),
    ]  # fmt: skip


def test_show_prints_the_summary_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(home, "20260301-093000-aaaaaa", 0, "pass")
    assert cli.main(["runs", "show", "20260301"]) == 0
    shown = capsys.readouterr().out
    assert "demo: Gate passed" in shown
    assert "resolve base" in shown
    assert "took 1 min 23 s" in shown


def test_open_prints_the_path_where_there_is_no_screen(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    folder = finished(home, "20260301-093000-aaaaaa", 0, "pass")
    assert cli.main(["runs", "open"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"


def test_a_run_that_is_not_there_or_not_one(home: Path, tell: Tell) -> None:
    assert "no run was recorded" in tell("runs", "show")[2]
    finished(home, "20260301-093000-aaaaaa", 0, "pass")
    finished(home, "20260301-093000-bbbbbb", 0, "pass")
    assert tell("runs", "show", "2025")[0] == 3
    assert "several runs begin with '20260301'" in tell("runs", "show", "20260301")[2]
    assert tell("runs", "show", "20260301-093000-b")[1]["id"] == "20260301-093000-bbbbbb"


def test_the_newest_comes_first(home: Path, tell: Tell) -> None:
    for day in range(1, 4):
        finished(home, f"{STARTED + timedelta(days=day):%Y%m%d-%H%M%S}-aaaaaa", 0, None)
    days = [run["id"][6:8] for run in tell("runs")[1]]
    assert days == ["04", "03", "02"]
