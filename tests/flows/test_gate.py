from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.gate import Decision, Evidence, GatePolicy, TaskRule, decide, load_evidence, without_live

Change = Callable[[dict[str, Any], list[dict[str, Any]]], None]


def item(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


def write_evaluation(folder: Path, scores: list[float], change: Change | None = None) -> Path:
    """An evaluation as the evaluate stage logs it, damaged by `change` before its digests are taken."""
    rows = [
        {"item": item(i), "prompt_hash": item(-i), "scores": {"exact_match": score}}
        for i, score in enumerate(scores)
    ]
    said: dict[str, Any] = {
        "config_digest": "c",
        "fewshot": 0,
        "limit": None,
        "samples": "samples_heldout.jsonl",
    }
    results: dict[str, Any] = {
        "harness": {"name": "lm-eval", "version": "0.4.13"},
        "seed": 0,
        "chat_template": "t",
        "model": {"subject": "m", "bytes": 100, "bits_per_weight": 4.5},
        "tasks": {"heldout": said},
    }
    said["n"] = len(rows)
    if change is not None:
        change(results, rows)
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    said.setdefault("samples_sha256", hashlib.sha256(raw).hexdigest())
    folder.mkdir(parents=True)
    (folder / "samples_heldout.jsonl").write_bytes(raw)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def evidence(folder: Path, scores: list[float], change: Change | None = None) -> Evidence:
    return load_evidence(write_evaluation(folder, scores, change), folder.name)


def rule(role: str, margin: float) -> GatePolicy:
    return GatePolicy(
        tasks=(
            TaskRule.model_validate(
                {
                    "task": "heldout",
                    "metric": "exact_match",
                    "role": role,
                    "against": "baseline",
                    "margin": margin,
                }
            ),
        )
    )


def judge(tmp_path: Path, policy: GatePolicy, ours: list[float], theirs: list[float]) -> Decision:
    return decide(
        policy, evidence(tmp_path / "candidate", ours), {"baseline": evidence(tmp_path / "base", theirs)}
    )


def test_a_clear_gain_passes_and_a_clear_loss_fails(tmp_path: Path) -> None:
    good, bad = [1.0] * 90 + [0.0] * 10, [1.0] * 10 + [0.0] * 90
    won = judge(tmp_path / "won", rule("improve", 0.1), good, bad)
    lost = judge(tmp_path / "lost", rule("improve", 0.1), bad, good)
    assert (won.verdict, won.exit_code) == ("pass", 0)
    assert (lost.verdict, lost.exit_code) == ("fail", 1)
    result = won.rules[0]
    assert (result.effect, result.n, result.discordant) == (pytest.approx(0.8), 100, 80)
    assert result.low is not None
    assert result.high is not None
    assert 0.1 < result.low < 0.8 < result.high
    assert "+80.0 points against the quantized base on 100 paired items (80 gained, 0 lost" in result.sentence
    assert set(won.evidence) == {"candidate", "baseline"}


def test_a_gain_smaller_than_the_margin_fails_to_improve_but_keeps(tmp_path: Path) -> None:
    ours, theirs = [1.0] * 1010 + [0.0] * 990, [1.0] * 1000 + [0.0] * 1000
    assert judge(tmp_path / "a", rule("improve", 0.05), ours, theirs).verdict == "fail"
    assert judge(tmp_path / "b", rule("keep", 0.05), ours, theirs).verdict == "pass"
    assert judge(tmp_path / "c", rule("keep", 0.001), theirs, ours).verdict == "fail"


def test_too_few_items_say_how_many_more(tmp_path: Path) -> None:
    ours = [0.0, 1.0] * 25
    theirs = [1.0, 0.0] + [0.0, 1.0] * 24
    decision = judge(tmp_path, rule("keep", 0.02), ours, theirs)
    assert (decision.verdict, decision.exit_code) == ("insufficient", 2)
    # tests/stages/test_power.py: with 4 % flips about 690 items have the power 0.8, of which 50 are there
    assert decision.rules[0].more_items == 695 - 50
    assert "about 645 more items would decide" in decision.rules[0].sentence


def test_equal_answers_on_few_items_are_not_proof(tmp_path: Path) -> None:
    decision = judge(tmp_path, rule("keep", 0.02), [1.0] * 20, [1.0] * 20)
    assert decision.verdict == "insufficient"
    assert decision.rules[0].more_items is not None


def test_items_are_paired_by_hash_not_by_position(tmp_path: Path) -> None:
    def shuffle(_: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        random.Random(0).shuffle(rows)

    scores = [1.0] * 60 + [0.0] * 60
    candidate = evidence(tmp_path / "candidate", scores, shuffle)
    decision = decide(rule("keep", 0.05), candidate, {"baseline": evidence(tmp_path / "base", scores)})
    assert decision.verdict == "pass"
    assert decision.rules[0].discordant == 0


def _set(*path: str, value: Any) -> Change:
    def change(results: dict[str, Any], _: list[dict[str, Any]]) -> None:
        place: Any = results
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def _row(edit: Callable[[list[dict[str, Any]]], object]) -> Change:
    return lambda _, rows: (edit(rows), None)[1]


BROKEN: dict[str, tuple[Change, str]] = {
    "no items": (_row(lambda rows: rows.clear()), "is empty"),
    "truncated": (_row(lambda rows: rows.pop()), "100 items were measured, 99 are"),
    "twice": (_row(lambda rows: rows.__setitem__(1, rows[0])), "is there twice"),
    "nan": (_row(lambda rows: rows[3]["scores"].update(exact_match=float("nan"))), "NaN is no number"),
    "infinite": (_row(lambda rows: rows[3]["scores"].update(exact_match=float("inf"))), "Infinity is no"),
    "no number": (_row(lambda rows: rows[3]["scores"].update(exact_match=None)), "not a finite number"),
    "not binary": (_row(lambda rows: rows[3]["scores"].update(exact_match=0.5)), "other than 0 and 1"),
    "no score": (_row(lambda rows: rows[3].pop("scores")), "KeyError"),
    "some without": (_row(lambda rows: rows[3]["scores"].pop("exact_match")), "no score for some metric"),
    "other items": (
        _row(lambda rows: rows[3].update(item=item(10_000))),
        "2 items were measured on one side",
    ),
    "other prompts": (
        _row(lambda rows: rows[3].update(prompt_hash="x")),
        "1 items were asked with different",
    ),
    "no row": (_row(lambda rows: rows.__setitem__(3, [])), "line 4"),  # type: ignore[call-overload]
    "edited": (_set("tasks", "heldout", "samples_sha256", value="0" * 64), "is not the file"),
    "few-shot": (_set("tasks", "heldout", "fewshot", value=3), "fewshot differs (3 against 0)"),
    "limit": (_set("tasks", "heldout", "limit", value=10), "limit differs"),
    "task config": (_set("tasks", "heldout", "config_digest", value="d"), "config digest differs"),
    "harness": (_set("harness", "version", value="0.4.12"), "harness differs"),
    "seed": (_set("seed", value=1), "seed differs"),
    "template": (_set("chat_template", value="u"), "chat template differs"),
    "no task": (_set("tasks", value={}), "holds no task"),
    "no model": (_set("model", value={}), "cannot be used"),
    "tasks are none": (_set("tasks", value=None), "cannot be used"),
    "elsewhere": (_set("tasks", "heldout", "samples", value="../base/samples_heldout.jsonl"), "are missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_evidence_is_invalid_on_either_side(tmp_path: Path, name: str) -> None:
    change, said = BROKEN[name]
    sound = evidence(tmp_path / "base", [1.0] * 100)
    broken = evidence(tmp_path / "broken", [1.0] * 100, change)
    for candidate, baseline in ((broken, sound), (sound, broken)):
        decision = decide(rule("keep", 0.5), candidate, {"baseline": baseline})
        assert (decision.verdict, decision.exit_code) == ("invalid", 3)
    assert said in decide(rule("keep", 0.5), broken, {"baseline": sound}).rules[0].sentence


def test_missing_files_and_references_are_invalid(tmp_path: Path) -> None:
    sound = evidence(tmp_path / "base", [1.0] * 100)
    policy = rule("keep", 0.5)
    nothing = load_evidence(tmp_path / "nowhere", "nowhere")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "results.json").write_text('{"tasks": {')
    torn = load_evidence(tmp_path / "torn", "torn")
    assert decide(policy, nothing, {"baseline": sound}).verdict == "invalid"
    assert decide(policy, torn, {"baseline": sound}).verdict == "invalid"
    decision = decide(policy, sound, {})
    assert decision.verdict == "invalid"
    assert "no evaluation of the quantized base" in decision.rules[0].sentence


def test_ceilings(tmp_path: Path) -> None:
    sound = evidence(tmp_path / "base", [1.0] * 100)

    def verdicts(**ceilings: float) -> list[str]:
        policy = GatePolicy.model_validate({"tasks": rule("keep", 0.5).tasks, **ceilings})
        return [result.verdict for result in decide(policy, sound, {"baseline": sound}).rules]

    assert verdicts(max_bytes=100, max_bits_per_weight=4.5) == ["pass", "pass", "pass"]
    assert verdicts(max_bytes=99, max_bits_per_weight=4.4) == ["pass", "fail", "fail"]
    unmeasured = sound.model_copy(update={"bytes": None})
    policy = GatePolicy(tasks=rule("keep", 0.5).tasks, max_bytes=100)
    assert decide(policy, unmeasured, {"baseline": sound}).verdict == "invalid"


def test_a_keep_rule_without_a_margin_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs a margin above 0"):
        rule("keep", 0.0)


@pytest.mark.parametrize(("n", "flips"), [(150, 0.06), (600, 0.04)])
def test_at_the_margin_at_most_seven_percent_pass(n: int, flips: float) -> None:
    """A candidate that is exactly `margin` worse must not pass more often than about alpha."""
    margin, trials = 0.02, 1500
    rng = random.Random(20)
    policy = rule("keep", margin)
    settled = {"setting": {}, "prompts": {item(i): "" for i in range(n)}}
    passed = 0
    for _ in range(trials):
        ours, theirs = {}, {}
        for key in settled["prompts"]:
            chance = rng.random()
            ours[key] = 0.0 if chance < (flips + margin) / 2 else 1.0
            theirs[key] = 0.0 if (flips + margin) / 2 <= chance < flips else 1.0
        sides = [
            Evidence.model_validate(
                {
                    "artifact_id": name,
                    "digest": "",
                    "tasks": {"heldout": {**settled, "scores": {"exact_match": scores}}},
                }
            )
            for name, scores in (("candidate", ours), ("base", theirs))
        ]
        passed += decide(policy, sides[0], {"baseline": sides[1]}).verdict == "pass"
    assert 0.01 <= passed / trials <= 0.07


def test_the_gate_needs_no_numeric_library() -> None:
    code = (
        "import sys, flows.gate; heavy = {'torch', 'numpy', 'transformers', 'lm_eval'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_channel_is_judged_against_the_base() -> None:
    live = TaskRule(task="t", metric="m", role="keep", against="live", margin=0.1)
    parent = TaskRule(task="t", metric="m", role="keep", against="parent", margin=0.1)
    rules = without_live(GatePolicy(tasks=(live, parent))).tasks
    assert [rule.against for rule in rules] == ["baseline", "parent"]
    assert rules[0].margin == live.margin
