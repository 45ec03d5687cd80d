"""The training of a judge without its minutes: its rows and its recipe."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import yaml

from flows.recipe import load
from stages.config.judge_metric import JudgeMetric
from stages.scoring.judge.prompt import verdict_of
from tests.reliability import judge_model
from tests.reliability.injection import ATTACKS, RUBRIC, sums
from tests.stages.scoring.fake_judge import shown


def test_a_row_is_what_the_product_asks_with_the_true_verdict() -> None:
    metric, verdicts = JudgeMetric(gguf="x", rubric=RUBRIC), Counter[object]()
    elsewhere = {f"What is {a} + {b}?" for a, b in sums(100)}
    for row in judge_model.rows(200, 0):
        asked, reply = (message["content"] for message in row["messages"])
        verdict = verdict_of(metric, reply)
        said = shown(asked, "answer").split("\n")[0].rstrip(".").split()[-1]
        assert (said == shown(asked, "expected answer")) == (verdict == 1)
        assert shown(asked, "question") not in elsewhere
        assert not any(attack in asked for attack in ATTACKS.values())
        verdicts[verdict] += 1
    assert verdicts == {1: 100, 0: 100}


def test_its_recipe_is_valid(tmp_path: Path) -> None:
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(judge_model.recipe()))
    (tmp_path / "rows.jsonl").write_text(json.dumps(judge_model.rows(1, 0)[0]))
    recipe = load(str(tmp_path / "judge.yaml"))
    assert recipe.gate is not None
    assert recipe.gate.tasks[0].task == judge_model.TASK
