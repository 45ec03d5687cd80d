"""Rules on a part of the items, by a value of their expected answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.gates.gate import Decision, GatePolicy, decide
from flows.gates.other_base import asked_alike
from flows.gates.plan import plan_rules
from tests.flows.evaluation_files import Results, Row
from tests.flows.gates.judging import evidence, rule

TOPICS = ("billing", "travel")
ITEMS = 400


def topics(_: Results, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        row["target"] = json.dumps({"topic": TOPICS[place % 2], "urgent": place % 4 == 0})


def scores(billing: float, travel: float) -> list[float]:
    """Each topic's share of good answers, spread evenly."""
    return [float((place // 2 % 100) / 100 < (billing, travel)[place % 2]) for place in range(ITEMS)]


def judged(folder: Path, policy: GatePolicy, ours: list[float], theirs: list[float], **more: Any) -> Decision:
    sides = (evidence(folder / name, own, topics, **more) for name, own in (("new", ours), ("old", theirs)))
    candidate, reference = sides
    return decide(policy, candidate, {"baseline": reference})


def on(*slices: str, **more: Any) -> GatePolicy:
    return GatePolicy(tasks=tuple(rule("keep", 0.1, slice=part, **more).tasks[0] for part in slices))


def test_a_slice_that_became_worse_fails_though_all_items_together_did_not(tmp_path: Path) -> None:
    ours, theirs = scores(0.4, 0.9), scores(0.8, 0.5)
    assert judged(tmp_path / "all", rule("keep", 0.1), ours, theirs).verdict == "pass"
    decision = judged(tmp_path / "slices", on("topic=billing", "topic=travel"), ours, theirs)
    billing, travel = decision.rules
    assert (decision.verdict, billing.verdict, travel.verdict) == ("fail", "fail", "pass")
    assert (billing.n, travel.n) == (ITEMS // 2, ITEMS // 2)
    assert billing.rule == "heldout/exact_match[topic=billing] keep against baseline"
    assert billing.sentence.startswith("heldout/exact_match[topic=billing]: -40.0 points against")


def test_values_that_are_no_texts_are_named_as_json_has_them(tmp_path: Path) -> None:
    decision = judged(tmp_path, on("urgent=true"), scores(0.5, 0.5), scores(0.5, 0.5))
    assert decision.rules[0].n == ITEMS // 4


def test_slices_are_corrected_together_by_holm(tmp_path: Path) -> None:
    same = scores(0.5, 0.5)
    one = judged(tmp_path / "one", on("topic=billing"), same, same).rules[0]
    assert one.alpha == 0.05
    both = judged(tmp_path / "two", on("topic=billing", "topic=travel"), scores(0.5, 0.4), same).rules
    assert [found.alpha for found in both] == [0.025, 0.05], "the first passed, which leaves one claim open"
    assert [found.verdict for found in both] == ["pass", "insufficient"]
    assert [found.group for found in both] == [None, None], "each has to hold"


def test_other_rules_are_corrected_by_themselves(tmp_path: Path) -> None:
    policy = GatePolicy(tasks=(*on("topic=billing").tasks, *rule("keep", 0.1).tasks))
    same = scores(0.5, 0.5)
    assert [found.alpha for found in judged(tmp_path, policy, same, same).rules] == [0.05, 0.05]


def test_items_of_a_chat_stay_together(tmp_path: Path) -> None:
    same, chats = scores(0.5, 0.5), [f"chat {place // 4}" for place in range(ITEMS)]
    found = judged(tmp_path, on("topic=billing"), scores(0.6, 0.1), same, clusters=chats).rules[0]
    assert (found.n, found.clusters) == (ITEMS // 2, ITEMS // 4)


@pytest.mark.parametrize("part", ["topic=weather", "colour=red"])
def test_a_slice_without_items_is_invalid(tmp_path: Path, part: str) -> None:
    decision = judged(tmp_path, on(part), scores(0.5, 0.5), scores(0.5, 0.5))
    name, value = part.split("=")
    assert decision.verdict == "invalid"
    assert f"no item has {name}: '{value}', in a column that prepare.slices" in decision.rules[0].sentence


def test_a_column_of_the_data_is_a_slice_whatever_the_answers_are(tmp_path: Path) -> None:
    def columns(_: Results, rows: list[Row]) -> None:
        for place, row in enumerate(rows):
            row["slices"] = {"topic": "travel" if place % 4 == 0 else "food", "lang": "de"}
            row["target"] = '{"topic": "billing"}' if place % 2 else "a text"

    parts = evidence(tmp_path / "a", [1.0] * 40, columns).tasks["heldout"]
    assert len(parts.of("topic=travel").prompts) == 10
    assert len(parts.of("topic=billing").prompts) == 0, "the column goes before the answer"
    assert len(parts.of("lang=de").prompts) == 40

    def damaged(_: Results, rows: list[Row]) -> None:
        rows[0]["slices"] = ["topic"]

    assert evidence(tmp_path / "b", [1.0] * 4, damaged).tasks["heldout"].of("topic=x").prompts == {}


def test_answers_that_are_no_objects_have_no_slices(tmp_path: Path) -> None:
    def change(_: Results, rows: list[Row]) -> None:
        targets = ["[1]", "{", "text", '{"a": [1]}', '{"a": {"b": 1}}', 7, None, '{"a": NaN}', "{}"]
        for row, target in zip(rows, targets, strict=False):
            row["target"] = target

    found = evidence(tmp_path / "a", [1.0] * 20, change).tasks["heldout"]
    assert [*found.parts.values()] == [{"a": "NaN"}]


def test_slices_are_named_anew_for_another_base(tmp_path: Path) -> None:
    same = scores(0.5, 0.5)
    ours, theirs = (evidence(tmp_path / name, same, topics) for name in ("a", "b"))
    task = asked_alike(ours, theirs, "live").tasks["heldout"]
    assert task.parts == ours.tasks["heldout"].parts


def test_rules_on_slices_share_their_risk() -> None:
    with pytest.raises(ValidationError, match=r"slices of heldout/exact_match share one alpha, found"):
        GatePolicy(tasks=(*on("a=1").tasks, *on("a=2", alpha=0.01).tasks))
    with pytest.raises(ValidationError, match=r"should match pattern"):
        on("topic")


def test_items_are_planned_at_the_corrected_risk() -> None:
    assert [row.alpha for row in plan_rules(on("a=1", "a=2"), [0.1], None, None)] == [0.025, 0.025]


def test_a_policy_without_slices_has_the_digest_that_it_had() -> None:
    assert "slice" not in rule("keep", 0.1).model_dump(mode="json")["tasks"][0]
