"""The trial of preferences without its minutes: its pairs, its recipe, and what it makes of a report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from flows.recipe import load
from stages.statistics.roc import pseudo_values
from tests.reliability import preferences


def test_the_middle_answer_is_chosen_and_rejected() -> None:
    rows = preferences.pairs(300, 0)
    assert len({row["prompt"] for row in rows}) == 300
    sides = {side: Counter(row[side][:7] for row in rows) for side in ("chosen", "rejected")}
    assert sides["chosen"] == {"I am so": 90, "We send": 210}
    assert sides["rejected"] == {"We send": 90, "Read th": 210}


def test_the_recipe_is_valid(tmp_path: Path) -> None:
    preferences.write(tmp_path, preferences.pairs(30, 0), 0.2)
    recipe = load(str(tmp_path / "preferences.yaml"))
    assert [training.method for training in recipe.train.trainings] == ["sft", "dpo"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 30


def test_orpo_is_one_training(tmp_path: Path) -> None:
    preferences.write(tmp_path, preferences.pairs(30, 0), 0.2, "orpo")
    recipe = load(str(tmp_path / "preferences.yaml"))
    assert [training.method for training in recipe.train.trainings] == ["orpo"]
    alone = report(tmp_path / "alone", [0.0] * 4, [1.0] * 4, "pass")
    alone["models"] = [model for model in alone["models"] if model["label"] != preferences.LABELS["first"]]
    figures, faults = preferences.found(alone, tmp_path / "alone", "orpo")
    assert (sorted(figures), faults) == (["gate", "scores"], [])


def report(tmp_path: Path, first: list[float], after: list[float], verdict: str) -> dict[str, Any]:
    for name, scores in (("first", first), ("after", after)):
        (tmp_path / name).mkdir(parents=True)
        lines = [json.dumps({"item": str(k), "scores": {"preferred": s}}) for k, s in enumerate(scores)]
        (tmp_path / name / "samples_pairs.jsonl").write_text("\n".join(lines))
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": len(first)}
    moved = {"kl_mean": {"value": 0.1, "low": 0.05, "high": 0.2, "n": 40}}
    return {
        "models": [
            {"label": label, "scores": {"pairs preferred": score}} for label in preferences.LABELS.values()
        ],
        "stages": [{"label": preferences.STEPS[name], "artifact_id": name} for name in ("first", "after")],
        "ladder": {"rungs": [{"label": preferences.LABELS["after"], "to_start": moved}]},
        "gate": {"verdict": verdict, "rules": [{"verdict": verdict, "sentence": "so it is"}]},
    }


def test_dpo_has_to_be_better_beyond_chance(tmp_path: Path) -> None:
    clear = report(tmp_path / "clear", [0.0] * 20 + [1.0] * 20, [1.0] * 40, "pass")
    figures, faults = preferences.found(clear, tmp_path / "clear", "dpo")
    assert faults == []
    assert (figures["against_first"]["gained"], figures["against_first"]["lost"]) == (20, 0)
    unclear = report(tmp_path / "unclear", [0.0, 1.0] * 20, [1.0, 0.0] * 20, "fail")
    _, faults = preferences.found(unclear, tmp_path / "unclear", "dpo")
    assert faults[0] == "expected the gate's verdict pass, found fail"
    assert faults[1].startswith("dpo is not better than what it began with beyond chance")


def test_the_middle_answer_is_called_good_and_bad(tmp_path: Path) -> None:
    rows = preferences.rated(300, 0)
    called = Counter((row["label"], row["completion"][:7]) for row in rows)
    assert called == {
        (True, "I am so"): 45,
        (True, "We send"): 105,
        (False, "We send"): 45,
        (False, "Read th"): 105,
    }
    preferences.write(tmp_path, rows, 0.2, "kto")
    recipe = load(str(tmp_path / "preferences.yaml"))
    assert [training.method for training in recipe.train.trainings] == ["sft", "kto"]
    assert recipe.gate is not None
    assert [(rule.task, rule.metric) for rule in recipe.gate.tasks] == [("answers", "roc_auc")]


def test_kto_has_to_tell_good_from_bad_beyond_chance(tmp_path: Path) -> None:
    good = [place % 2 == 0 for place in range(60)]
    told = [float(place + 100 * label) for place, label in enumerate(good)]
    faults = {}
    for name, after in (("better", told), ("same", list(range(60)))):
        made = report(tmp_path / name, [0.0] * 60, [0.0] * 60, "pass")
        for model in made["models"]:
            model["scores"]["answers roc_auc"] = model["scores"]["pairs preferred"]
        for side, costs in (("first", list(map(float, range(60)))), ("after", after)):
            values = pseudo_values(costs, good)
            items = [
                {"item": str(k), "scores": {"roc_auc": value}, "counts": {"tokens": [100 - costs[k], 1]},
                 "target": "good" if good[k] else "bad"}
                for k, value in enumerate(values)
            ]  # fmt: skip
            lines = "\n".join(json.dumps(item) for item in items)
            (tmp_path / name / side / "samples_answers.jsonl").write_text(lines)
        figures, faults[name] = preferences.found(made, tmp_path / name, "kto")
        assert figures["against_first"]["n"] == 60
    assert faults["better"] == []
    assert faults["same"][0].startswith("kto is not better than what it began with beyond chance")
    assert figures["against_first"]["margin_after"] == figures["against_first"]["margin_first"] == -1.0
