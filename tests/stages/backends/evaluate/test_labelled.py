"""Held-out answers that are called good or bad: whether the good ones are likelier, as a gate reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.gates.evidence import load_evidence
from flows.gates.policy import TaskRule
from flows.gates.rules import judge_rule
from registry.evaluation_results import read_items
from stages.backends.evaluate.likelihood.labelled import run_labelled
from stages.backends.evaluate.torch_lm import TorchLM
from stages.config.evaluate import EvaluateConfig, LabelledTask
from stages.contract import Parent
from stages.errors import InvalidInput
from stages.evaluate import evaluate
from stages.formats.splits import undesirable
from tests.stages.backends.evaluate import asking
from tests.stages.backends.evaluate.asking import NF4
from tests.stages.backends.evaluate.test_preference import likelihood

Row = dict[str, Any]
RULE = {"task": "rated", "metric": "roc_auc", "role": "keep", "against": "baseline", "scores": "real"}


def chat(asked: str, answer: str) -> list[Row]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


CHATS = {
    True: [chat("Name a topic.", "food"), chat("Another?", "sports and food"), chat("More?", "history")],
    False: [chat("Name a topic.", "a long answer about computers"), chat("And 7?", "food food")],
}


def dataset(folder: Path, chats: dict[bool, list[list[Row]]], split: str = "test") -> Parent:
    folder.mkdir(exist_ok=True)
    file = folder / f"{split}.parquet"
    for part, label in ((file, True), (undesirable(file), False)):
        if label in chats:
            pq.write_table(pa.Table.from_pylist([{"messages": one} for one in chats[label]]), part)
    return Parent(id="0" * 64, kind="dataset", path=folder)


def test_the_score_is_the_share_of_pairs_whose_good_answer_is_likelier(
    torch_lm: TorchLM, tmp_path: Path
) -> None:
    found = run_labelled(torch_lm, LabelledTask(), dataset(tmp_path / "data", CHATS), tmp_path)
    items = read_items(tmp_path, found)
    means: dict[bool, list[float]] = {True: [], False: []}
    for item, (label, one) in zip(items, ((k, c) for k in (True, False) for c in CHATS[k]), strict=True):
        total, tokens = likelihood(torch_lm, one)
        loss, counted = item["counts"]["tokens"]
        assert (loss, counted) == (pytest.approx(-total, rel=1e-4), tokens)
        assert (item["target"], item["answer"]) == ("good" if label else "bad", one[-1]["content"])
        means[label].append(total / tokens)
    pairs = [good > bad for good in means[True] for bad in means[False]]
    assert found["metrics"]["roc_auc"]["value"] == pytest.approx(sum(pairs) / 6)
    assert found["words"] == f"3 good and 2 bad answers of the test split of dataset {'0' * 12}"
    assert items[0]["cluster"] == items[3]["cluster"] == items[0]["prompt_hash"]
    assert items[1]["cluster"] is None
    few = run_labelled(torch_lm, LabelledTask(max_items=2), dataset(tmp_path / "data", CHATS), tmp_path)
    assert few["n"] == 4


def test_it_is_a_gate_s_evidence(pico_base: Parent, tmp_path: Path) -> None:
    config = EvaluateConfig(tasks=(LabelledTask(name="rated"),), nf4=NF4)
    good = [chat(f"What is {k}?", f"topic {k}") for k in range(30)]
    verdicts = []
    for bad in (22, 19):
        chats = {True: good, False: [chat(f"Who is {k}?", "well who knows") for k in range(bad)]}
        data = dataset(tmp_path / str(bad), chats)
        facts, out = asking.run(tmp_path, f"out {bad}", {"model": pico_base, "dataset": data}, config)
        assert facts.metrics["main"] == {"rated": "roc_auc"}
        evidence = load_evidence(out, "e" * 64)
        assert evidence.problems == ()
        assert sum(evidence.tasks["rated"].good.values()) == 30
        moved = evidence.model_copy(deep=True)
        for item in list(moved.tasks["rated"].scores["roc_auc"])[::2]:
            moved.tasks["rated"].scores["roc_auc"][item] += 1e-3
        rule = TaskRule.model_validate({**RULE, "margin": 0.5})
        result = judge_rule(rule, moved, evidence, 1)
        verdicts.append((result.verdict, result.method, result.gained))
    assert verdicts == [("pass", "area", None), ("insufficient", "area", None)], "fewer than 20 of one label"
    assert "gained" not in result.sentence
    assert math.isfinite(result.low or math.nan)


def test_a_gate_without_two_prompts_of_a_label_is_invalid(tmp_path: Path, pico_base: Parent) -> None:
    config = EvaluateConfig(tasks=(LabelledTask(name="rated"),), nf4=NF4)
    data = dataset(tmp_path / "data", CHATS)
    _, out = asking.run(tmp_path, "out", {"model": pico_base, "dataset": data}, config)
    evidence = load_evidence(out, "e" * 64)
    task = evidence.tasks["rated"]
    task.good.update(dict.fromkeys(task.good, True))
    rule = TaskRule.model_validate({**RULE, "margin": 0.5})
    result = judge_rule(rule, evidence, evidence, 1)
    assert result.verdict == "invalid"
    assert "two clusters of each label" in result.sentence


def test_what_has_no_labels_or_too_few_is_refused(
    torch_lm: TorchLM, pico_base: Parent, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=r"the dataset has no labels; prepare them with prepare\.format"):
        run_labelled(torch_lm, LabelledTask(), dataset(tmp_path / "good", {True: CHATS[True]}), tmp_path)
    one = {True: CHATS[True], False: [chat("Name a topic.", answer) for answer in ("no", "never")]}
    with pytest.raises(
        InvalidInput, match=r"those of the test split that are bad are to 1 prompts; hold out"
    ):
        run_labelled(torch_lm, LabelledTask(), dataset(tmp_path / "one", one), tmp_path)
    with pytest.raises(InvalidInput, match=r"task labelled asks for held-out answers, but no prepared"):
        evaluate({"model": pico_base}, EvaluateConfig(tasks=(LabelledTask(),)), tmp_path)


def test_answers_of_the_validation_split(torch_lm: TorchLM, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", CHATS, "validation")
    found = run_labelled(torch_lm, LabelledTask(split="validation"), data, tmp_path)
    assert (found["n"], found["config"]["split"]) == (5, "validation")
    assert json.loads(json.dumps(found["metrics"]))["roc_auc"]["n"] == 5
