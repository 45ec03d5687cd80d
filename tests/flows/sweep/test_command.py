"""`tuneline sweep`: what it prints, its JSON, and the code that it ends with."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from flows.execute import Result
from flows.outcome import RunOutcome
from flows.settings import Settings
from flows.sweep import execute
from flows.sweep.execute import Sweep, SweepResult
from flows.sweep.outcome import SweepOutcome
from flows.sweep.table import command
from tests.flows.report.test_report import small_report
from tests.flows.sweep.imagined import ImaginedRun, searched

SEARCH = {"train.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "train.lora.rank": [4, 8]}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"recipe": "pico-smoke", "search": SEARCH, "trials": 9}))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Sweep, bool]]:
    """What the command asked for; it is answered with a sweep that was not run."""
    calls: list[tuple[Sweep, bool]] = []

    def answer(sweep: Sweep, _settings: Any, search_only: bool) -> SweepResult:
        calls.append((sweep, search_only))
        found, _ = searched(ImaginedRun(tmp_path), 8)
        judged = None if search_only else ended(tmp_path, 2)
        page = tmp_path / "sweep.html"
        return SweepResult(found, ended(tmp_path, 0), judged, page, command(found, sweep.named))

    monkeypatch.setattr(execute, "search_and_judge", answer)
    return calls


def ended(folder: Path, exit_code: int, error: BaseException | None = None) -> Result:
    report = replace(small_report(), recipe="demo-sweep" if error else "demo")
    return Result(report, folder / "report.html", exit_code, error, RunOutcome())


def test_trials_are_shown_before_the_run_of_the_best(
    file: Path, asked: list[tuple[Sweep, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", str(file)]) == 2, "the judged run's code"
    said = capsys.readouterr().out
    assert "8 trials were looked at (" in said
    assert said.index("pico-smoke: trials") < said.index("The best one by itself: ") < said.index("demo: ")
    assert "tuneline run pico-smoke --set train.learning_rate=" in said
    assert [(sweep.config.trials, only) for sweep, only in asked] == [(9, False)]


def test_json_holds_the_trials_and_both_runs(
    file: Path, asked: list[tuple[Sweep, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", str(file), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["sweep", "page", "command", "search", "run", "exit_code"]
    assert len(document["sweep"]["trials"]) == 8
    assert (document["search"]["exit_code"], document["run"]["exit_code"], document["exit_code"]) == (0, 2, 2)


def test_a_search_alone_with_other_trials_and_keys(
    file: Path, asked: list[tuple[Sweep, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", str(file), "--search-only", "--trials", "30", "--set", "train.max_steps=3", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["run"] is None
    [(sweep, only)] = asked
    assert (sweep.config.trials, only) == (30, True)
    assert (sweep.overrides, sweep.recipe.train.max_steps) == (("train.max_steps=3",), 3)


def test_one_that_was_stopped_shows_what_it_has(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part, _ = searched(ImaginedRun(tmp_path, stop_after=20), 12)
    nothing = SweepOutcome("demo", "routing", "exact_match", 3)
    for found in (part, nothing):
        stopped = ended(tmp_path, 130, KeyboardInterrupt())
        result = SweepResult(found, stopped, None, None, None)
        monkeypatch.setattr(execute, "search_and_judge", lambda *_, result=result: result)
        assert cli.main(["sweep", str(file)]) == 130
        said = capsys.readouterr().out
        assert "demo-sweep: " in said
        assert ("trials were looked at" in said) == (found is part)


@pytest.mark.parametrize("trials", ["0", "1001", "-3", "many"])
def test_counts_that_are_none(file: Path, trials: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", str(file), "--trials", trials])
    assert end.value.code == 3
    assert "--trials" in capsys.readouterr().err


def test_keys_that_no_recipe_has_begin_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(yaml.safe_dump({"recipe": "pico-smoke", "search": {"train.learning_rat": [1e-3]}}))
    assert cli.main(["sweep", str(file)]) == 3
    assert "train.learning_rat" in capsys.readouterr().err
    assert not (file.parent / "home").exists()


def test_ctrl_c_while_the_search_is_reported_keeps_the_best_from_being_run(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "_checked", lambda asked, *_: (asked.recipe, None))
    monkeypatch.setattr(execute, "record_run", lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(execute, "execute", lambda *_: pytest.fail("the best was run"))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            execute.search_and_judge(execute.load_sweep(file), Settings(home=file.parent / "home"))
    finally:
        signal.signal(signal.SIGINT, before)
