"""Rules on what a judge scored: what people's labels show, and what a judge alone does not."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flows.errors import Usage
from flows.gates.gate import Decision, Evidence, GatePolicy, TaskRule, decide
from flows.gates.judged.labels import read_labels
from flows.gates.other_base import asked_alike
from stages.statistics.prediction_powered import FEWEST_LABELS
from tests.flows.evaluation_files import Results, Row, item, question
from tests.flows.gates.judging import evidence, rule

ITEMS = 1000
Scores = list[float]
Sides = dict[str, Scores]


def judge_config(**settings: Any) -> dict[str, Any]:
    return {"kind": "judge", "name": "judge", "compare": "rubric", "levels": 2, **settings}


def text_of(side: str, place: int) -> str:
    return f"answer of {side} to {place}"


def of(folder: Path, side: str, scores: Scores, others: str | None = None, **settings: Any) -> Evidence:
    """An evaluation that a judge scored; `others`: the side whose answers its pairs are with."""

    def change(results: Results, rows: list[Row]) -> None:
        results["tasks"]["heldout"]["config"] = {"metrics": [judge_config(**settings)]}
        for place, row in enumerate(rows):
            row["answer"] = text_of(side, place) + "\n"
            row["document"] = place
            if others is not None:
                row["judged"] = {"judge": {"other": text_of(others, place), "verdicts": []}}

    return evidence(folder / side, {"judge": scores}, change)


def judgements(bias: float, better: float = 0.0, n: int = ITEMS) -> tuple[Sides, Sides]:
    """What a judge and what people say of candidate and base: `better` is the candidate's true lead, and
    `bias` the share of its bad answers that the judge calls good."""
    draw = random.Random(5)
    said = {"new": [float(draw.random() < 0.5 + better) for _ in range(n)]}
    said["old"] = [float(draw.random() < 0.5) for _ in range(n)]
    judged = {
        "new": [max(good, float(draw.random() < bias)) for good in said["new"]],
        "old": list(said["old"]),
    }
    return judged, said


def write_labels(folder: Path, said: Sides, places: Sequence[int], **more: Any) -> Path:
    lines = [
        {"asked": question(place), "answer": text_of(side, place), "label": scores[place], **more}
        for side, scores in said.items()
        for place in places
    ]
    file = folder / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def drawn(labels: int, n: int = ITEMS) -> list[int]:
    return random.Random(9).sample(range(n), labels)


def judged(
    folder: Path, scores: Sides, labels: Path | None, policy: GatePolicy | None = None, **given: Any
) -> Decision:
    ours, theirs = (of(folder, side, scores[side], **given) for side in ("new", "old"))
    asked = policy or rule("improve", 0.0, metric="judge")
    return decide(asked, ours, {"baseline": theirs}, labels=read_labels(labels))


def test_a_biased_judge_shows_nothing_without_labels(tmp_path: Path) -> None:
    scores, _ = judgements(bias=0.4)
    decision = judged(tmp_path, scores, None)
    found = decision.rules[0]
    assert (decision.verdict, found.labels, found.more_labels) == ("insufficient", None, FEWEST_LABELS)
    assert "a judge scored it, and nobody labelled any of these answers" in found.sentence
    assert "give them with --labels FILE" in found.sentence
    assert "labels" not in decision.evidence


def test_nor_does_it_show_that_a_candidate_is_worse(tmp_path: Path) -> None:
    scores, _ = judgements(bias=0.4)
    turned = {"new": scores["old"], "old": scores["new"]}
    assert judged(tmp_path, turned, None, rule("keep", 0.05, metric="judge")).verdict == "insufficient"


def test_a_policy_may_believe_the_judge_and_says_so(tmp_path: Path) -> None:
    scores, _ = judgements(bias=0.4)
    policy = rule("improve", 0.0, metric="judge", trust_judge=True)
    decision = judged(tmp_path, scores, None, policy)
    assert decision.verdict == "pass"
    assert decision.rules[0].method == "tango"
    assert "Warning: the judge is believed (trust_judge); it may be off" in decision.rules[0].sentence


def test_labels_correct_the_judge(tmp_path: Path) -> None:
    scores, said = judgements(bias=0.4)
    file = write_labels(tmp_path, said, drawn(200))
    decision = judged(tmp_path, scores, file)
    found = decision.rules[0]
    assert decision.verdict != "pass"
    assert (found.method, found.labels, found.n) == ("prediction-powered", 200, ITEMS)
    assert found.judged is not None
    assert found.bias is not None
    assert found.effect is not None
    assert found.judged > 0.15
    assert found.bias > 0.1
    assert found.effect < 0.1
    assert "200 of them labelled by people" in found.sentence
    assert "the judge alone says +" in found.sentence
    assert decision.evidence["labels"] == hashlib.sha256(file.read_bytes()).hexdigest()
    believed = rule("improve", 0.0, metric="judge", trust_judge=True)
    assert judged(tmp_path / "believed", scores, file, believed).rules == decision.rules


def test_a_real_lead_is_shown_with_labels(tmp_path: Path) -> None:
    scores, said = judgements(bias=0.1, better=0.3)
    decision = judged(tmp_path, scores, write_labels(tmp_path, said, drawn(200)))
    assert decision.verdict == "pass"
    assert "labels are): shown to be better by more than 0 points." in decision.rules[0].sentence


def test_few_labels_are_told_and_show_nothing(tmp_path: Path) -> None:
    scores, said = judgements(bias=0.1, better=0.3)
    decision = judged(tmp_path, scores, write_labels(tmp_path, said, drawn(49)))
    assert decision.verdict == "insufficient"
    assert "only 49 items are labelled on both sides, at least 50 must be" in decision.rules[0].sentence


def test_labels_that_were_chosen_are_refused(tmp_path: Path) -> None:
    scores, said = judgements(bias=0.1)
    won = [place for place in range(ITEMS) if scores["new"][place] > scores["old"][place]]
    decision = judged(tmp_path, scores, write_labels(tmp_path, said, won[:100]))
    assert decision.verdict == "invalid"
    assert "so they are no random ones" in decision.rules[0].sentence


def test_a_label_is_about_an_answer_and_not_about_an_item(tmp_path: Path) -> None:
    """Labels of another model's answers to the same questions say nothing here."""
    scores, said = judgements(bias=0.1, better=0.3)
    elsewhere = {"another": said["new"], "old": said["old"]}
    decision = judged(tmp_path, scores, write_labels(tmp_path, elsewhere, drawn(200)))
    assert decision.verdict == "insufficient"
    assert "only 0 items are labelled on both sides (200 more on one side only)" in decision.rules[0].sentence


def test_labels_of_nothing_that_was_measured_are_told_from_none(tmp_path: Path) -> None:
    scores, said = judgements(bias=0.1)
    file = write_labels(tmp_path, {"another": said["new"]}, drawn(200))
    sentence = judged(tmp_path, scores, file).rules[0].sentence
    assert "none of the given labels is about one of these answers" in sentence


def test_items_with_a_label_on_one_side_only_keep_the_rule_from_deciding(tmp_path: Path) -> None:
    """Labels of an earlier candidate hold where the new one answers the same: no random items."""
    scores, said = judgements(bias=0.1, better=0.3)
    file = write_labels(tmp_path, said, drawn(200))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[40:]))
    found = judged(tmp_path, scores, file).rules[0]
    assert (found.verdict, found.labels, found.more_labels) == ("insufficient", 160, 40)
    assert "40 more items are labelled on one side only" in found.sentence


def test_leaving_out_equal_answers_is_noticed(tmp_path: Path) -> None:
    """To people and judge they differ by nothing, so the others' error would be taken for theirs."""
    scores, said = judgements(bias=0.1, better=0.3)
    scores["new"][::2], said["new"][::2] = scores["old"][::2], said["old"][::2]
    ours, theirs = (of(tmp_path, side, scores[side]) for side in ("new", "old"))
    task = theirs.tasks["heldout"]
    same = {item(place): ours.tasks["heldout"].answers[item(place)] for place in range(0, ITEMS, 2)}
    alike = task.model_copy(update={"answers": task.answers | same})
    theirs = theirs.model_copy(update={"tasks": {"heldout": alike}})
    places = [place for place in drawn(300) if place % 2]
    labels = read_labels(write_labels(tmp_path, said, places))
    found = decide(rule("improve", 0.0, metric="judge"), ours, {"baseline": theirs}, labels=labels).rules[0]
    assert found.verdict == "invalid"
    assert "gave the same answer more or less often on the" in found.sentence


def test_an_item_may_be_named_by_its_digest_and_several_people_are_averaged(tmp_path: Path) -> None:
    scores, said = judgements(bias=0.1, better=0.3)
    lines = [
        {"item": item(place), "answer": f"  {text_of(side, place)}", "label": label, "who": who}
        for place in drawn(100)
        for side, own in said.items()
        for who, label in (("ada", own[place]), ("ben", 1 - own[place]))
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = judged(tmp_path, scores, file).rules[0]
    assert (found.labels, found.judge_weight) == (100, 0.0), "to people all answers are equal on average"
    assert found.effect == 0.0


def test_pairs_need_the_answer_they_were_compared_with(tmp_path: Path) -> None:
    won = random.Random(1)
    scores = {"new": [won.choice([1.0, 1.0, 0.5, 0.0]) for _ in range(ITEMS)], "old": [0.5] * ITEMS}
    policy = rule("improve", 0.0, metric="judge", scores="real")
    given = {"compare": "pairwise", "others": "old"}
    lines = [
        {"asked": question(k), "answer": text_of("new", k), "other": text_of("old", k), "label": label}
        for k in drawn(150)
        for label in [scores["new"][k]]
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = judged(tmp_path / "a", scores, file, policy, **given)
    assert found.verdict == "pass"
    assert found.rules[0].labels == 150, "the other side's answers are equal to those they are compared with"
    file.write_text("".join(json.dumps({**line, "other": "something else"}) + "\n" for line in lines))
    assert judged(tmp_path / "b", scores, file, policy, **given).verdict == "insufficient"


def test_grades_are_labelled_on_their_own_scale(tmp_path: Path) -> None:
    draw = random.Random(2)
    scores = {
        side: [float(draw.randint(low, 5)) for _ in range(ITEMS)] for side, low in (("new", 3), ("old", 1))
    }
    policy = rule("improve", 0.5, metric="judge", scores="real")
    file = write_labels(tmp_path, scores, drawn(100))
    decision = judged(tmp_path / "a", scores, file, policy, levels=5)
    assert decision.verdict == "pass"
    with pytest.raises(Usage, match=r"labels.jsonl line 1: 6 is not on the scale of judge, 1 to 5"):
        judged(tmp_path / "b", scores, write_labels(tmp_path, {"new": [6.0] * ITEMS}, [0]), policy, levels=5)


def test_labels_of_another_metric_or_task_do_not_count(tmp_path: Path) -> None:
    scores, said = judgements(bias=0.1, better=0.3)
    for number, more in enumerate(({"metric": "another"}, {"task": "another"})):
        file = write_labels(tmp_path, said, drawn(200), **more)
        assert judged(tmp_path / str(number), scores, file).verdict == "insufficient"
    file = write_labels(tmp_path, said, drawn(200), metric="judge", task="heldout")
    assert judged(tmp_path / "mine", scores, file).verdict == "pass"


def test_metrics_that_no_judge_scored_need_no_labels(tmp_path: Path) -> None:
    scores, said = judgements(bias=0.0, better=0.3)
    ours, theirs = (evidence(tmp_path / side, scores[side]) for side in ("new", "old"))
    file = write_labels(tmp_path, said, drawn(200))
    decision = decide(rule("improve", 0.0), ours, {"baseline": theirs}, labels=read_labels(file))
    assert (decision.verdict, decision.rules[0].method) == ("pass", "tango")
    assert not {"labels", "bias", "judged"} & decision.rules[0].model_dump(mode="json").keys()


def test_what_is_known_of_answers_moves_with_the_items_of_another_base(tmp_path: Path) -> None:
    scores, _ = judgements(bias=0.1)
    ours = of(tmp_path / "a", "new", scores["new"], "old", compare="pairwise")
    theirs = of(tmp_path / "b", "old", scores["old"], "old", compare="pairwise")
    task = asked_alike(ours, theirs, "live").tasks["heldout"]
    assert task.answers.keys() == ours.tasks["heldout"].answers.keys() == task.scales["judge"].others.keys()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", r"line 2: is not a JSON object; expected a JSON object with `label`"),
        ('{"asked": "q", "answer": "a"}', r"line 2: label is null, no number"),
        ('{"asked": "q", "answer": "a", "label": true}', r"line 2: label is true"),
        ('{"asked": "q", "answer": "a", "label": NaN}', r"line 2: label is NaN"),
        ('{"asked": "q", "label": 1}', r"line 2: has no answer, so nobody knows what was labelled"),
        ('{"answer": "a", "label": 1}', r"line 2: has neither asked nor item"),
        ('{"asked": "q", "answer": "a", "label": 1, "lable": 2}', r"line 2: has the key 'lable'"),
        ('{"asked": "q", "answer": "a", "label": 1, "other": 3}', r"line 2: other is 3, no text"),
    ],
)
def test_a_line_that_is_no_label(line: str, message: str, tmp_path: Path) -> None:
    good = '{"asked": "q", "answer": "a", "label": 1}\n\n'
    (tmp_path / "labels.jsonl").write_text(good.strip() + "\n" + line)
    with pytest.raises(Usage, match=message):
        read_labels(tmp_path / "labels.jsonl")


def test_a_file_of_labels_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(Usage, match=r"labels .*none.jsonl: cannot be read"):
        read_labels(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(Usage, match=r"labels .*empty.jsonl: has no labels"):
        read_labels(tmp_path / "empty.jsonl")
    assert read_labels(None) is None


def test_a_policy_without_trust_has_the_digest_that_it_had() -> None:
    before = rule("improve", 0.1)
    assert "trust_judge" not in before.model_dump(mode="json")["tasks"][0]
    assert before.digest != rule("improve", 0.1, trust_judge=True).digest
    assert TaskRule.model_validate(before.tasks[0].model_dump()) == before.tasks[0]
