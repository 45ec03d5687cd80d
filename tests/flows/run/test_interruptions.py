"""When Ctrl-C and SIGTERM end a run, and what of it is recorded then."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import cli, execute
from flows.recipe import load
from flows.run.interruptions import Interruptions
from flows.run.runs import past_runs
from flows.settings import Settings

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """What a shell starts in the background ignores SIGINT."""
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_an_interruption_waits_until_it_is_allowed(number: signal.Signals) -> None:
    reached = []
    with Interruptions() as interruptions:
        signal.raise_signal(number)
        reached.append("held back")
        with pytest.raises(KeyboardInterrupt), interruptions.allowed():
            reached.append("allowed")
        with pytest.raises(KeyboardInterrupt), interruptions.allowed():
            signal.raise_signal(number)
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert reached == ["held back"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signals_of_others_are_left_alone() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    with Interruptions():
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    done: list[bool] = []

    def elsewhere() -> None:
        with Interruptions() as interruptions, interruptions.allowed():
            done.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [True]


class InterruptingView:
    """A view of Prefect; Ctrl-C comes while it starts."""

    def __init__(self, *_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    def run(self, *_: object) -> None:
        """Nobody is told."""

    def ended(self, *_: object) -> None:
        """Nobody is told."""

    def close(self, *_: object) -> None:
        """Nobody is told."""


def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that comes before a run's record finds nothing wrong."""
    for name in ("bring_model", "describe_base", "refuse_problems", "refuse_shortfalls", "bring_converter"):
        monkeypatch.setattr(execute, name, lambda *_: SimpleNamespace())
    monkeypatch.setattr(execute, "settle", lambda recipe, *_: (recipe, None))
    monkeypatch.setattr(execute, "PrefectView", InterruptingView)


def test_a_run_that_was_recorded_has_its_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepared(monkeypatch)
    settings = Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    result = execute.execute(load("pico-smoke"), settings)
    assert result.exit_code == 130
    (run,) = past_runs(settings.root)
    assert (run.state, run.page) == ("interrupted", result.html)


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "place", ["flows.execute.describe_base", "flows.commands.pipeline.run.load", "flows.cli._command"]
)
@pytest.mark.parametrize("number", BOTH)
def test_a_run_that_did_not_begin_says_so(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    number: int,
) -> None:
    prepared(monkeypatch)
    monkeypatch.setenv("TUNELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(place, lambda *_, **__: signal.raise_signal(number))
    assert cli.main(["run", "pico-smoke"]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "tuneline: interrupted before the run began; nothing is recorded"
    assert past_runs(tmp_path / "home") == []


def test_a_command_that_did_not_begin_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "parser", interrupted)
    assert cli.main(["recipes", "ls"]) == 130
    assert "interrupted before the command began; nothing is recorded" in capsys.readouterr().err


def test_a_command_that_began_is_said_to_be_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.commands.pipeline.recipes.ls", interrupted)
    assert cli.main(["recipes", "ls"]) == 130
    assert capsys.readouterr().err == "tuneline: interrupted\n"
