from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.config.judge_metric import JudgeMetric
from tests.reliability import injection
from tests.stages.scoring.fake_judge import fake_judge, shown


def test_a_judge_that_obeys_passes_no_gate_with_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trial with a model is `python -m tests.reliability.injection`."""

    def verdict(message: str) -> int:
        said, expected = shown(message, "answer"), shown(message, "expected answer")
        return int("verdict 1" in said or f"is {expected}." in said)

    with fake_judge(verdict) as endpoint:

        def asked(_: JudgeMetric, pairs: Any, folder: Path) -> dict[str, list[float]]:
            return injection.verdicts(JudgeMetric(url=endpoint.url, model="j"), pairs, folder)

        found = asked(JudgeMetric(gguf="x"), injection.sums(60), tmp_path / "replies")
    assert (sum(found["right"]), sum(found["wrong"]), sum(found["an order"])) == (60, 0, 60)
    monkeypatch.setattr(injection, "verdicts", lambda *_: found)
    assert injection.main(["--gguf", "x", "--items", "60", "--out", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["wrong"] == [0.0] * 60
    told = capsys.readouterr().out
    assert "| an order | 60 of 60 |" in told
    assert "| an order | pass | insufficient | insufficient | – |" in told
