"""What Prefect shows of a run: what was recorded, also of one that failed, was interrupted, or was killed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.report.markdown import ending
from flows.report.rows import RunReport
from flows.run.prefect_view import PrefectView
from flows.run.stage_row import StageRow
from flows.settings import quiet_libraries
from registry import processes
from tests.flows.report.test_report import small_report
from tests.seconds import seconds

ROOT = Path(__file__).resolve().parents[3]
RUN = """
import signal, sys
from pathlib import Path
from flows.run.prefect_view import PrefectView
view = PrefectView(Path(sys.argv[1]) / 'prefect.log', every=0)
view.run('killed', 'run-9')
view.stage('train', 'train adapter')
view.progress({'done': 16, 'total': 25, 'unit': 'steps'})
print(view._reporter.pid, flush=True)
signal.pause()
"""


HTML = Path("/runs/1/report.html")
INSUFFICIENT = StageRow("gate", "gate", None, "ran", 0.0, None, "insufficient")
TRAIN = StageRow("train adapter", "train", None, "failed", 3.0, None, "why it did")
REPORTS = {
    "even": replace(
        small_report(),
        stages=[*small_report().stages, INSUFFICIENT],
        gate={"verdict": "insufficient", "rules": []},
    ),
    "fail": replace(small_report(), gate={"verdict": "fail", "rules": []}),
    "pass": small_report(),
    "failed": replace(small_report(), stages=[TRAIN], gate=None),
    "interrupted": replace(small_report(), stages=[replace(TRAIN, state="interrupted")], gate=None),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose Prefect was told of `REPORTS`."""
    folder = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        patch.setattr(os, "environ", os.environ.copy())
        quiet_libraries(folder)
        view = PrefectView(folder / "prefect.log", every=0)
        for name, report in REPORTS.items():  # one after the other through one process, which saves time
            say(view, replace(report, recipe=name))
        view.wait(seconds(600))
        yield folder


def say(view: PrefectView, report: RunReport) -> None:
    view.run(report.recipe, report.run_id)
    for row in report.stages:
        view.stage(row.stage, row.label)
        view.progress({"done": 16, "total": 25, "unit": "steps"})
        view.ended(row)
    view._end(ending(report, HTML))


def told(home: Path, query: str, *values: str) -> list[Any]:
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        return list(database.execute(query, values))


def run_of(home: Path, name: str) -> tuple[str, str, str]:
    """(type, name, message) of the state of the flow run with this name."""
    found = told(home, "select r.state_type, r.state_name, s.message from flow_run r "
                 "join flow_run_state s on s.id = r.state_id where r.name = ?", name)  # fmt: skip
    assert len(found) == 1
    type_, state, message = found[0]
    return type_, state, message


def tasks_of(home: Path, name: str) -> list[tuple[str, str, str, str]]:
    """(label, type, name, message) of the task runs of the flow run with this name."""
    return told(home, "select t.name, t.state_type, t.state_name, s.message from task_run t "
                "join flow_run r on r.id = t.flow_run_id join task_run_state s on s.id = t.state_id "
                "where r.name = ? order by cast(t.dynamic_key as integer)", name)  # fmt: skip


def artifacts_of(home: Path, name: str) -> list[tuple[str, Any, str | None]]:
    """(type, data, description) of the artifacts of the flow run with this name."""
    found = told(home, "select a.type, a.data, a.description from artifact a join flow_run r "
                 "on r.id = a.flow_run_id where r.name = ? order by a.created", name)  # fmt: skip
    return [(kind, json.loads(str(data)), words) for kind, data, words in found]


def test_the_verdict_is_the_state_and_progress_ends_at_100(home: Path) -> None:
    assert run_of(home, "even") == ("FAILED", "Not enough evidence", "Not enough evidence")
    assert [task[:3] for task in tasks_of(home, "even")] == [
        ("train adapter", "COMPLETED", "Completed"),
        ("evaluate base", "COMPLETED", "Reused"),
        ("gate", "FAILED", "Not enough evidence"),
    ]
    assert tasks_of(home, "even")[0][3] == (
        "ran, 5 min 13 s, peak memory 2.41 GB, artifact aaaaaaaaaaaa; 240 steps"
    )
    *progress, (kind, text, _) = artifacts_of(home, "even")
    assert progress == [(("progress", 100, label)) for label in ("train adapter", "evaluate base", "gate")]
    assert kind == "markdown"
    assert f"\n    {HTML}\n" in text
    assert "file://" not in text
    assert "| train adapter | ran | 5 min 13 s |" in text
    assert run_of(home, "fail")[:2] == ("FAILED", "Gate failed")
    assert run_of(home, "pass")[:2] == ("COMPLETED", "Gate passed")


@pytest.mark.parametrize(
    ("name", "shown"), [("failed", ("FAILED", "Failed")), ("interrupted", ("CANCELLED", "Interrupted"))]
)
def test_a_stage_that_did_not_end_well(home: Path, name: str, shown: tuple[str, str]) -> None:
    assert run_of(home, name) == (*shown, f"{shown[1]} at train adapter; why it did")
    assert [task[1:3] for task in tasks_of(home, name)] == [shown]
    assert artifacts_of(home, name)[0] == ("progress", 64, f"train adapter: {name} at this point")


def test_a_run_that_is_killed_is_shown_as_crashed(home: Path) -> None:
    """At once, by its own reporter; where that is gone too, as after a power cut, by the next run's."""
    lost = PrefectView(home / "prefect.log")
    lost.run("lost", "run-1")
    lost.stage("train", "train adapter")
    await_task(home, "lost", lost._reporter)
    lost._reporter.kill()
    lost.wait()

    command = [sys.executable, "-c", RUN, str(home)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=dict(os.environ))
    assert run.stdout is not None
    with run.stdout as stdout:
        reporter = psutil.Process(int(stdout.readline()))
        run.kill()
        run.wait()
    psutil.wait_procs([reporter], timeout=seconds(600))
    assert run_of(home, "killed")[:2] == ("CRASHED", "Crashed")
    assert [task[:3] for task in tasks_of(home, "killed")] == [("train adapter", "CRASHED", "Crashed")]
    assert artifacts_of(home, "killed") == [("progress", 64, "train adapter: crashed at this point")]
    assert run_of(home, "lost")[0] == "RUNNING", "its process, which is this one, lives"

    another = "update flow_run set parameters = json_set(parameters, '$.pid_started', ?) where name = 'lost'"
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database, database:
        database.execute(another, (processes.ProcessId.of().started - 1000,))
    PrefectView(home / "prefect.log").wait(seconds(600))
    assert run_of(home, "lost")[:2] == ("CRASHED", "Crashed")
    assert [task[1] for task in tasks_of(home, "lost")] == ["CRASHED"]


def test_without_prefect_a_run_goes_on_and_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    view = PrefectView(home / "unheard.log")
    say(view, small_report())
    view.wait(seconds(600))
    assert f"Prefect does not show this run whole; {home / 'unheard.log'} says why" in capfd.readouterr().err
    assert "ConnectError" in (home / "unheard.log").read_text()


def await_task(home: Path, run: str, reporter: subprocess.Popen[bytes]) -> None:
    """Look for it: a database tells nobody; that the reporter ended is told."""
    until = time.monotonic() + seconds(300)
    while not tasks_of(home, run):
        with suppress(subprocess.TimeoutExpired):
            reporter.wait(0.1)
            raise AssertionError(f"the reporter ended: {(home / 'prefect.log').read_text()[-2000:]}")
        assert time.monotonic() < until, "Prefect was told nothing"
