"""A stage on plain directories that is killed: the next attempt gets what it had finished."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.run import standalone_stage
from flows.run.child import StageExecution
from stages.errors import InvalidInput, StageKilled

Stage = Callable[[Path], None]


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], None]:
    """Run a stage that does what it is told to with its draft, into `tmp_path / "o[ut"`."""
    monkeypatch.setattr(standalone_stage, "require_compatible", lambda *_: None)

    def run(does: Stage) -> None:
        def in_child(*arguments: Any) -> StageExecution:
            does(arguments[3])
            return StageExecution({"kind": "merged"}, 0.0, 0, datetime.now(UTC))

        monkeypatch.setattr(standalone_stage, "run_in_child", in_child)
        standalone_stage.run_plain("merge", {}, [], tmp_path / "o[ut")

    return run


def killed(draft: Path) -> None:
    (draft / "checkpoints").mkdir(exist_ok=True)
    (draft / "checkpoints" / "finished").write_text("1")
    (draft / "half").mkdir()
    (draft / "model").write_text("half")
    raise StageKilled("the stage was killed")


def refused(draft: Path) -> None:
    (draft / "checkpoints").mkdir()
    raise InvalidInput("the adapter is damaged")


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_what_a_killed_stage_had_finished_goes_to_the_next_attempt(
    attempt: Callable[[Stage], None], tmp_path: Path
) -> None:
    with pytest.raises(StageKilled, match=r"was killed; what it had finished is in .*/\.o\[ut-"):
        attempt(killed)
    (left,) = tmp_path.iterdir()
    assert names(left) == ["checkpoints/finished"]
    seen = []

    def goes_on(draft: Path) -> None:
        seen.extend(names(draft))
        (draft / "checkpoints" / "finished").rename(draft / "model")
        (draft / "checkpoints").rmdir()

    attempt(goes_on)
    assert seen == ["checkpoints/finished"]
    assert names(tmp_path) == ["o[ut/model", "o[ut/tuneline-facts.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["o[ut"]


def test_nothing_is_taken_from_an_attempt_under_way(attempt: Callable[[Stage], None], tmp_path: Path) -> None:
    other = tmp_path / ".o[ut-12345678"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints" / "finished").touch()
    with standalone_stage._locked(other) as held:
        assert held
        attempt(lambda draft: (draft / "checkpoints").mkdir())
    assert names(other) == ["checkpoints/finished"]


def test_a_refused_stage_leaves_nothing(attempt: Callable[[Stage], None], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"the adapter is damaged"):
        attempt(refused)
    assert list(tmp_path.iterdir()) == []
