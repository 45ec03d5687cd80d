"""A user's own Python function: what it gets, what it may return, and that it cannot stay for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.config.user_metric import PythonMetric
from stages.errors import InvalidInput
from stages.scoring.user_function import Answered, user_scores
from tests.seconds import seconds

ITEMS = [
    Answered("a b", ["a"], [{"role": "user", "content": "say a"}]),
    Answered("c", ["a", "b"], [{"role": "user", "content": "say b"}]),
]


def scores(tmp_path: Path, text: str, **settings: object) -> list[float]:
    (tmp_path / "mine.py").write_text(text)
    metric = PythonMetric.model_validate({"path": str(tmp_path / "mine.py"), **settings})
    return user_scores(metric, ITEMS)


def test_it_gets_answer_references_and_chat(tmp_path: Path) -> None:
    text = """
def score(answer, references, messages):
    print("this does no harm")
    return 10 * len(references) + (messages[-1]["content"] == f"say {answer[0]}")
"""
    assert scores(tmp_path, text) == [11.0, 20.0]


def test_true_and_false_are_1_and_0(tmp_path: Path) -> None:
    text = "def score(answer, references, messages):\n    return answer.startswith(references[0])\n"
    assert scores(tmp_path, text, scores_are="binary") == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score = 3", r"mine.py defines no function score\(answer, references, messages\)"),
        ("import nothing_like_that", r"mine.py cannot be loaded: ModuleNotFoundError"),
        ("def score(*_):\n    return 1 / 0", r"mine.py, item 0: score failed: ZeroDivisionError"),
        ("def score(*_):\n    return 'good'", r"item 0: score returned 'good', expected a number"),
        ("def score(*_):\n    return float('nan')", r"returned nan, expected a number"),
        (
            "def score(answer, *_):\n    return len(answer) / 2",
            r"item 0: .* 1.5, expected 0 or 1; set scores_are",
        ),
    ],
)
def test_what_it_may_not_do(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"metric python: .*{message}"):
        scores(tmp_path, text, scores_are="binary")


@pytest.mark.timeout(seconds(60))
def test_one_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.scoring.user_function.STARTING", 1)
    with pytest.raises(InvalidInput, match=r"metric python: mine.py: it took more than .* of computing"):
        scores(tmp_path, "def score(*_):\n    while True:\n        pass", seconds=0.5)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"metric python: .*none.py is not a file; give the path"):
        user_scores(PythonMetric(path=str(tmp_path / "none.py")), ITEMS)
