"""Verdicts: what passes, what fails, what is not known, and everything that must never pass."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.gates import checks as gate_checks
from flows.gates import evidence as reading
from flows.gates.contamination import search, words
from flows.gates.gate import (
    CandidateFacts,
    Decision,
    Evidence,
    GatePolicy,
    TaskRule,
    Waived,
    decide,
    load_evidence,
    without_live,
)
from flows.gates.policy import Contamination
from flows.gates.soundness import Expected, RequiredNf4
from tests.flows.evaluation_files import (
    NF4,
    Change,
    Results,
    Row,
    evaluation,
    fidelity_task,
    item,
    question,
    write,
)


def evidence(folder: Path, scores: Any, change: Change | None = None, **given: Any) -> Evidence:
    return load_evidence(write(folder, evaluation(scores, change, **given)), folder.name)


def rule(role: str, margin: float, **more: Any) -> GatePolicy:
    claim = {
        "task": "heldout",
        "metric": "exact_match",
        "role": role,
        "against": "baseline",
        "margin": margin,
    }
    return GatePolicy(tasks=(TaskRule.model_validate({**claim, **more}),))


def judge(tmp_path: Path, policy: GatePolicy, ours: Any, theirs: Any, **given: Any) -> Decision:
    return decide(
        policy,
        evidence(tmp_path / "candidate", ours, **given),
        {"baseline": evidence(tmp_path / "base", theirs, **given)},
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
    assert result.mcnemar is not None
    assert result.mcnemar < 1e-20
    assert "+80.0 points against the quantized base on 100 paired items (80 gained, 0 lost" in result.sentence
    assert set(won.evidence) == {"candidate", "baseline"}


def test_a_gain_smaller_than_the_margin_fails_to_improve_but_keeps(tmp_path: Path) -> None:
    ours, theirs = [1.0] * 1010 + [0.0] * 990, [1.0] * 1000 + [0.0] * 1000
    assert judge(tmp_path / "a", rule("improve", 0.05), ours, theirs).verdict == "fail"
    assert judge(tmp_path / "b", rule("keep", 0.05), ours, theirs).verdict == "pass"
    assert judge(tmp_path / "c", rule("keep", 0.001), theirs, ours).verdict == "fail"


@pytest.mark.parametrize("margin", [0.5, 0.51, 0.9, 0.999])
def test_a_margin_of_more_than_half_of_the_items_is_planned_within_what_is_possible(
    tmp_path: Path, margin: float
) -> None:
    policy = rule("improve", margin)
    assert margin < policy.tasks[0].planned <= 1
    decision = judge(tmp_path, policy, [1.0] * 90 + [0.0] * 10, [1.0] * 20 + [0.0] * 80)
    assert (decision.verdict == "pass") == (margin < 0.6), (
        "70 points more were seen, and at least 60 are sure"
    )
    with pytest.raises(ValidationError, match=r"a difference of 1\.5 is not a share"):
        rule("improve", margin, expected=1.5)


def test_too_few_items_say_how_many_more(tmp_path: Path) -> None:
    ours = [0.0, 1.0] * 25
    theirs = [1.0, 0.0] + [0.0, 1.0] * 24
    decision = judge(tmp_path, rule("keep", 0.02), ours, theirs)
    assert (decision.verdict, decision.exit_code) == ("insufficient", 2)
    # with 4 % flips about 690 items have the power 0.8 (tests/stages/statistics/test_power.py); 50 are there
    assert decision.rules[0].more_items == 695 - 50
    assert decision.rules[0].power == pytest.approx(0.1, abs=0.01)
    assert "about 645 more items would decide" in decision.rules[0].sentence


def test_equal_answers_on_few_items_are_not_proof(tmp_path: Path) -> None:
    decision = judge(tmp_path, rule("keep", 0.02), [1.0] * 20, [1.0] * 20)
    assert decision.verdict == "insufficient"
    assert decision.rules[0].more_items is not None


def test_items_are_paired_by_hash_not_by_position(tmp_path: Path) -> None:
    def shuffle(_: Results, rows: list[Row]) -> None:
        random.Random(0).shuffle(rows)

    scores = [1.0] * 60 + [0.0] * 60
    candidate = evidence(tmp_path / "candidate", scores, shuffle)
    decision = decide(rule("keep", 0.05), candidate, {"baseline": evidence(tmp_path / "base", scores)})
    assert decision.verdict == "pass"
    assert decision.rules[0].discordant == 0


def test_items_of_one_passage_do_not_count_as_independent(tmp_path: Path) -> None:
    """Four questions to a passage, right or wrong together: 400 items say what 100 would."""
    ours = [float(i // 4 % 25 != 0) for i in range(400)]
    theirs = [float(i // 4 % 25 != 1) for i in range(400)]
    policy, passages = rule("keep", 0.03), [f"passage {i // 4}" for i in range(400)]
    alone = judge(tmp_path / "alone", policy, ours, theirs)
    together = judge(tmp_path / "together", policy, ours, theirs, clusters=passages)
    assert (alone.verdict, together.verdict) == ("pass", "insufficient")
    found = together.rules[0]
    assert (found.method, found.clusters, found.n) == ("tango-clustered", 100, 400)
    assert found.effect == alone.rules[0].effect
    assert found.low is not None
    assert alone.rules[0].low is not None
    assert found.low < alone.rules[0].low
    assert "on 400 paired items in 100 clusters" in found.sentence


def test_metrics_that_are_no_shares(tmp_path: Path) -> None:
    rng = random.Random(3)
    theirs = [rng.random() for _ in range(200)]
    better = [score + rng.gauss(0.05, 0.1) for score in theirs]
    won = judge(tmp_path / "won", rule("improve", 0.02, scores="real"), better, theirs)
    kept = judge(tmp_path / "kept", rule("keep", 0.02, scores="real"), theirs, better)
    same = judge(tmp_path / "same", rule("keep", 0.02, scores="real"), theirs, theirs)
    assert (won.verdict, kept.verdict) == ("pass", "fail")
    assert won.rules[0].method == "clustered-mean"
    assert (same.verdict, same.exit_code) == ("insufficient", 2)
    assert "only 0 items differ, at least 20 must" in same.rules[0].sentence
    single = judge(tmp_path / "single", rule("keep", 0.02, scores="real"), [0.5], [0.4])
    assert (single.verdict, "has a single item" in single.rules[0].sentence) == ("invalid", True)


def test_any_of_a_group_is_enough_and_costs_a_correction(tmp_path: Path) -> None:
    # 18 gained and 8 lost of 200: shown at 5 % alone, not at 2.5 % each
    gained = [1.0] * 18 + [0.0] * 8 + [1.0] * 174
    base = [0.0] * 18 + [1.0] * 8 + [1.0] * 174
    clear = [1.0] * 60 + [1.0] * 140
    worse = [0.0] * 60 + [1.0] * 140

    def decided(name: str, first: list[float], second: list[float], grouped: bool = True) -> Decision:
        group = {"any_of": "either"} if grouped else {}
        rules = [{"task": "heldout", "metric": m, "role": "improve", "against": "baseline", **group}
                 for m in ("f", "g")]  # fmt: skip
        policy = GatePolicy.model_validate({"tasks": rules})
        return decide(
            policy,
            evidence(tmp_path / name / "c", {"f": first, "g": second}),
            {"baseline": evidence(tmp_path / name / "b", {"f": base, "g": worse})},
        )

    alone = judge(tmp_path / "alone", rule("improve", 0.0), gained, base)
    assert alone.verdict == "pass"
    neither = decided("neither", gained, worse)
    assert neither.verdict == "insufficient"
    assert [r.alpha for r in neither.rules] == [0.025, 0.025]
    both = decided("both", gained, clear)
    assert both.verdict == "pass"
    assert [(r.verdict, r.alpha) for r in both.rules] == [("pass", 0.05), ("pass", 0.025)], "Holm steps down"
    assert decided("all", gained, worse, grouped=False).verdict == "insufficient"
    halves = decided("halves", clear, [0.5] * 200)
    assert [r.verdict for r in halves.rules] == ["pass", "invalid"]
    assert halves.verdict == "invalid", "a claim that cannot be read is not made up for by another"


def _set(*path: str, value: Any) -> Change:
    def change(results: Results, _: list[Row]) -> None:
        place: Any = results
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def _row(edit: Callable[[list[Row]], object]) -> Change:
    return lambda _, rows: (edit(rows), None)[1]


def _damaged(change: Change | None = None, late: Change | None = None, **given: Any) -> dict[str, Any]:
    return {"change": change, "late": late, **given}


HELDOUT = ("tasks", "heldout")
BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    # what is broken: (the check that finds it, how it is broken, what the gate says)
    "no items": ("samples are not empty", _damaged(_row(lambda rows: rows.clear())), "is empty"),
    "truncated": (
        "no row is missing",
        _damaged(_row(lambda rows: rows.pop())),
        "100 items were measured, 99",
    ),
    "one added": (
        "no row is missing",
        _damaged(_row(lambda rows: rows.append({**rows[0], "item": item(500)}))),
        "100 items were measured, 101",
    ),
    "twice": (
        "no item is twice",
        _damaged(_row(lambda rows: rows.__setitem__(1, rows[0]))),
        "appears twice",
    ),
    "nan": (
        "rows can be read",
        _damaged(_row(lambda rows: rows[3]["scores"].update(exact_match=float("nan")))),
        "NaN is not a number in JSON",
    ),
    "infinite": (
        "rows can be read",
        _damaged(_row(lambda rows: rows[3]["scores"].update(exact_match=float("inf")))),
        "Infinity is no",
    ),
    "no number": (
        "scores are finite",
        _damaged(_row(lambda rows: rows[3]["scores"].update(exact_match=None))),
        "not a finite number",
    ),
    "a truth": (
        "scores are finite",
        _damaged(_row(lambda rows: rows[3]["scores"].update(exact_match=True))),
        "is True, not a finite",
    ),
    "not binary": (
        "scores are as the rule says",
        _damaged(_row(lambda rows: rows[3]["scores"].update(exact_match=0.5))),
        "other than 0 and 1",
    ),
    "no score": ("rows can be read", _damaged(_row(lambda rows: rows[3].pop("scores"))), "KeyError"),
    "some without": (
        "every item has every metric",
        _damaged(_row(lambda rows: rows[3]["scores"].pop("exact_match"))),
        "no score for some metric",
    ),
    "other items": (
        "same items",
        _damaged(_row(lambda rows: rows[3].update(item=item(10_000)))),
        "2 items were measured on one side",
    ),
    "other prompts": (
        "same prompts",
        _damaged(_row(lambda rows: rows[3].update(prompt_hash="x"))),
        "1 items were asked with different",
    ),
    "other clusters": (
        "same clusters",
        _damaged(_row(lambda rows: rows[3].update(cluster="p"))),
        "1 items are in another cluster",
    ),
    "no row": ("rows can be read", _damaged(_row(lambda rows: rows.__setitem__(3, []))), "line 4"),  # type: ignore[call-overload]
    "cut off": (
        "samples are those measured",
        _damaged(late=_row(lambda rows: rows[7]["scores"].update(exact_match=0.0))),
        "is not the file that was measured",
    ),
    "scores edited, digests too": (
        "the summary agrees with the samples",
        _damaged(_row(lambda rows: rows[7]["scores"].update(exact_match=0.0))),
        "results.json says exact_match is 1.0, its samples say 0.99",
    ),
    "few-shot": (
        "same few-shot examples",
        _damaged(_set(*HELDOUT, "fewshot", value=3)),
        "fewshot differs (3 ag",
    ),
    "limit": ("same limit", _damaged(_set(*HELDOUT, "limit", value=10)), "limit differs"),
    "task config": (
        "same task config",
        _damaged(_set(*HELDOUT, "config_digest", value="d")),
        "config digest differs",
    ),
    "harness": ("same harness", _damaged(_set("harness", "version", value="0.4.12")), "harness differs"),
    "seed": ("same seed", _damaged(_set("seed", value=1)), "seed differs"),
    "template": ("same chat template", _damaged(_set("chat_template", value="u")), "chat template differs"),
    "other NF4": (
        "same NF4 setting",
        _damaged(nf4={**NF4, "double_quant": False}),
        "NF4 setting differs",
    ),
    "other arithmetic": (
        "same arithmetic",
        _damaged(
            computed_with="bfloat16 weights, computed in float32 with transformers 5.19.0 on cpu",
            also="bfloat16 weights with transformers 5.19.0 on cpu",
        ),
        "one side was computed in float32, the other in bfloat16",
    ),
    "no task": ("there are tasks", _damaged(_set("tasks", value={})), "holds no task"),
    "metric absent": (
        "both have the metric",
        _damaged(
            lambda results, rows: (
                results["tasks"]["heldout"].pop("metrics"),
                [row.update(scores={"f1": 1.0}) for row in rows],
                None,
            )[2]
        ),
        "was not measured on heldout with exact_match",
    ),
    "no file": (
        "samples are there",
        _damaged(_set(*HELDOUT, "samples", value="samples_other.jsonl")),
        "the samples samples_other.jsonl are missing",
    ),
    "elsewhere": (
        "samples are there",
        _damaged(_set(*HELDOUT, "samples", value="../base/samples_heldout.jsonl")),
        "are missing",
    ),
    "of another model": (
        "it is about that artifact",
        _damaged(subject="x" * 64, expected=Expected(subject="m" * 64)),
        "is an evaluation of xxxxxxxxxxxx, not of mmmmmmmmmmmm",
    ),
    "edited results": (
        "files are those registered",
        _damaged(
            expected=Expected(files={"results.json": "0" * 64, "samples_heldout.jsonl": "1" * 64}),
        ),
        "the registry recorded 000000000000",
    ),
    "a file the registry has not": (
        "files are those registered",
        _damaged(expected=Expected(files={"something.else": "0" * 64})),
        "the registry recorded no such file",
    ),
    "NF4 other than trained": (
        "NF4 is as trained",
        _damaged(nf4=NF4, expected=Expected(nf4=RequiredNf4({**NF4, "double_quant": False}))),
        "was measured with the NF4 setting",
    ),
    "quantized file measured in NF4": (
        "NF4 is as trained",
        _damaged(nf4=NF4, expected=Expected(nf4=RequiredNf4())),
        "it is served without NF4",
    ),
    "too few items": (
        "enough items",
        _damaged(min_items=101),
        "has 100 items, the policy asks for at least 101",
    ),
}
"""What must never pass, each with a check of its own that finds it."""
UNREADABLE: dict[str, Change] = {
    "no model": _set("model", value={}),
    "tasks are none": _set("tasks", value=None),
    "tasks are a list": _set("tasks", value=["heldout"]),
    "a figure is NaN": _set(*HELDOUT, "metrics", "exact_match", "low", value=float("nan")),
    "no seed": lambda results, _: (results.pop("seed"), None)[1],
    "the name of samples is a number": _set(*HELDOUT, "samples", value=3),
    "the digest is none": _set(*HELDOUT, "samples_sha256", value=None),
}


def broken_pair(tmp_path: Path, name: str) -> tuple[GatePolicy, Evidence, Evidence]:
    given = dict(BROKEN[name][1])
    policy = rule("keep", 0.5)
    policy = policy.model_copy(
        update={"evidence": policy.evidence.model_copy(update={"min_items": given.pop("min_items", 1)})}
    )
    expected = given.pop("expected", None)
    sound = evidence(
        tmp_path / "base", [1.0] * 100, nf4=NF4 if "nf4" in given else None,
        computed_with=given.pop("also", None),
    )  # fmt: skip
    folder = write(tmp_path / "broken", evaluation([1.0] * 100, given.pop("change"), **given))
    return policy, load_evidence(folder, "broken", expected), sound


@pytest.mark.parametrize("name", BROKEN)
def test_broken_evidence_is_invalid_on_either_side(tmp_path: Path, name: str) -> None:
    policy, broken, sound = broken_pair(tmp_path, name)
    for candidate, baseline in ((broken, sound), (sound, broken)):
        decision = decide(policy, candidate, {"baseline": baseline})
        assert (decision.verdict, decision.exit_code) == ("invalid", 3)
    assert BROKEN[name][2] in decide(policy, broken, {"baseline": sound}).rules[0].sentence


CHECKS = {
    **dict.fromkeys(reading.TASK_CHECKS, (reading, "TASK_CHECKS")),
    **dict.fromkeys(reading.READING_CHECKS, (reading, "READING_CHECKS")),
    **{name: (gate_checks, "PAIR_CHECKS") for name in gate_checks.PAIR_CHECKS if name != "both are sound"},
}


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    """Switch one check off: the damage that it is there for is then no longer found by its reason."""
    module, table = CHECKS[check]
    guarded = [name for name, (finds, _, _) in BROKEN.items() if finds == check]
    assert guarded, f"nothing in BROKEN needs the check {check!r}"
    monkeypatch.setitem(getattr(module, table), check, lambda *_: ())
    for number, name in enumerate(guarded):
        policy, broken, sound = broken_pair(tmp_path / str(number), name)
        said = ""
        with contextlib.suppress(KeyError):  # unguarded, the arithmetic may find nothing to work on
            said = decide(policy, broken, {"baseline": sound}).rules[0].sentence
        assert BROKEN[name][2] not in said


def test_without_the_soundness_check_no_problem_of_a_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gate_checks.PAIR_CHECKS, "both are sound", lambda *_: ())
    policy, broken, sound = broken_pair(tmp_path, "cut off")
    assert decide(policy, broken, {"baseline": sound}).verdict != "invalid"


@pytest.mark.parametrize("name", UNREADABLE)
def test_results_that_make_no_sense_are_invalid(tmp_path: Path, name: str) -> None:
    broken = evidence(tmp_path / "broken", [1.0] * 100, UNREADABLE[name])
    decision = decide(rule("keep", 0.5), broken, {"baseline": evidence(tmp_path / "base", [1.0] * 100)})
    assert decision.verdict == "invalid"
    reasons = ("results.json of broken cannot be used", "are missing", "is not the file that was measured")
    assert any(reason in decision.rules[0].sentence for reason in reasons)


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

    def verdicts(latency: list[float] | None = None, **ceilings: float) -> list[str]:
        policy = GatePolicy.model_validate({"tasks": rule("keep", 0.5).tasks, **ceilings})
        decision = decide(policy, sound, {"baseline": sound}, CandidateFacts(latency_ms=latency))
        return [result.verdict for result in decision.rules]

    assert verdicts(max_bytes=100, max_bits_per_weight=4.5) == ["pass", "pass", "pass"]
    assert verdicts(max_bytes=99, max_bits_per_weight=4.4) == ["pass", "fail", "fail"]
    large = sound.model_copy(update={"bytes": 16_398_336, "bits_per_weight": 8.502185436622337})
    limits = {"tasks": rule("keep", 0.5).tasks, "max_bytes": 20_000_000, "max_bits_per_weight": 9}
    rules = decide(GatePolicy.model_validate(limits), large, {"baseline": sound}).rules
    assert rules[1].sentence == "size: 16,398,336 bytes, within the ceiling of 20,000,000"
    assert rules[2].sentence == "bits per weight: 8.50219 bits, within the ceiling of 9"
    unmeasured = sound.model_copy(update={"bytes": None})
    policy = GatePolicy(tasks=rule("keep", 0.5).tasks, max_bytes=100)
    assert decide(policy, unmeasured, {"baseline": sound}).verdict == "invalid"
    even = [100.0 + k for k in range(100)]  # 95th percentile 195, with 95 % confidence below 199
    assert verdicts(even, max_latency_ms=199) == ["pass", "pass"]
    assert verdicts(even, max_latency_ms=196) == ["pass", "insufficient"]
    assert verdicts(even, max_latency_ms=180) == ["pass", "fail"]
    assert verdicts(even[:40], max_latency_ms=1000) == ["pass", "insufficient"], "too few requests"
    assert verdicts(None, max_latency_ms=1000) == ["pass", "invalid"]


LIMITS = {"quant": "Q4_K_M", "kl_mean": 0.05, "same_top": 0.9}


def of_fidelity(tmp_path: Path, facts: CandidateFacts, **metrics: tuple[float, float, float]) -> Decision:
    policy = GatePolicy.model_validate({"tasks": rule("keep", 0.5).tasks, "fidelity": [LIMITS]})
    task = fidelity_task("fidelity", "p" * 64, **metrics) if metrics else None
    candidate = evidence(tmp_path / "candidate", [1.0] * 100, fidelity=task)
    assert candidate.problems == ()
    return decide(policy, candidate, {"baseline": evidence(tmp_path / "base", [1.0] * 100)}, facts)


@pytest.mark.parametrize(
    ("kl", "top", "verdict"),
    [
        ((0.01, 0.02, 0.03), (0.92, 0.95, 0.97), "pass"),
        ((0.04, 0.05, 0.06), (0.92, 0.95, 0.97), "insufficient"),
        ((0.06, 0.07, 0.08), (0.92, 0.95, 0.97), "fail"),
        ((0.01, 0.02, 0.03), (0.80, 0.85, 0.89), "fail"),
        ((0.01, 0.02, 0.03), (0.85, 0.92, 0.97), "insufficient"),
    ],
)
def test_fidelity_limits_hold_with_the_whole_interval(
    tmp_path: Path, kl: tuple[float, float, float], top: tuple[float, float, float], verdict: str
) -> None:
    facts = CandidateFacts(quant="q4_k_m", parent="p" * 64)
    assert of_fidelity(tmp_path, facts, kl_mean=kl, same_top=top).verdict == verdict


def test_fidelity_that_is_not_known_is_invalid(tmp_path: Path) -> None:
    good = {"kl_mean": (0.01, 0.02, 0.03), "same_top": (0.92, 0.95, 0.97)}
    parent = "p" * 64
    cases = [
        (CandidateFacts(quant=None, parent=parent), good, "type is not known"),
        (CandidateFacts(quant="Q8_0", parent=parent), good, "no limits for Q8_0; it has some for Q4_K_M"),
        (
            CandidateFacts(quant="Q4_K_M", parent="o" * 64),
            good,
            "was not compared with its parent oooooooooooo",
        ),
        (CandidateFacts(quant="Q4_K_M", parent=parent), {}, "was not compared with its parent"),
        (
            CandidateFacts(quant="Q4_K_M", parent=parent),
            {"kl_mean": good["kl_mean"]},
            "same_top: was not measured",
        ),
    ]
    for number, (facts, metrics, said) in enumerate(cases):
        decision = of_fidelity(tmp_path / str(number), facts, **metrics)
        assert decision.verdict == "invalid"
        assert any(said in result.sentence for result in decision.rules)


def test_fidelity_that_is_not_to_be_believed_is_invalid(tmp_path: Path) -> None:
    facts = CandidateFacts(quant="Q4_K_M", parent="p" * 64)
    good = fidelity_task("fidelity", "p" * 64, kl_mean=(0.01, 0.02, 0.03), same_top=(0.92, 0.95, 0.97))
    policy = GatePolicy.model_validate({"tasks": rule("keep", 0.5).tasks, "fidelity": [LIMITS]})
    sound = evidence(tmp_path / "sound", [1.0] * 100, fidelity=good)

    def judged(measured: Evidence) -> Decision:
        return decide(policy, sound, {"baseline": sound}, replace(facts, fidelity=measured))

    assert judged(sound).verdict == "pass"
    infinite = {"fidelity": {**good["fidelity"], "finite": False}}
    found = judged(evidence(tmp_path / "infinite", [1.0] * 100, fidelity=infinite))
    assert (found.verdict, "from logits that are not finite" in found.rules[1].sentence) == ("invalid", True)
    damaged = sound.model_copy(update={"problems": ("results.json has sha256 0, the registry recorded 1",)})
    found = judged(damaged)
    assert (found.verdict, "the registry recorded 1" in found.rules[1].sentence) == ("invalid", True)


def test_required_evidence_has_to_be_there(tmp_path: Path) -> None:
    sound = evidence(tmp_path / "base", [1.0] * 100)
    policy = GatePolicy.model_validate({"tasks": rule("keep", 0.5).tasks, "evidence": {"tasks": ["arena"]}})
    decision = decide(policy, sound, {"baseline": sound})
    assert decision.verdict == "invalid"
    assert "was not measured on arena" in decision.rules[1].sentence
    damaged = GatePolicy.model_validate({"tasks": rule("keep", 0.5).tasks, "evidence": {"verified": True}})
    facts = CandidateFacts(missing=("the candidate is damaged: model.gguf",))
    assert decide(damaged, sound, {"baseline": sound}, facts).verdict == "invalid"
    assert decide(damaged, sound, {"baseline": sound}).verdict == "pass"


def test_items_seen_in_training_fail_unless_somebody_answers_for_them(tmp_path: Path) -> None:
    limits = Contamination()
    policy = GatePolicy(tasks=rule("keep", 0.5).tasks, contamination=limits)
    sound = evidence(tmp_path / "base", [1.0] * 100)
    chats = [["Some other text.", "an answer"], [question(7).upper().replace(":", " -"), "an answer"]]
    seen = search(sound, ["heldout"], chats, limits)
    assert [found.item for found in seen.items] == [item(7)]

    def verdict(facts: CandidateFacts, *waived: Waived) -> tuple[str, str]:
        decision = decide(policy, sound, {"baseline": sound}, facts, waived)
        return decision.verdict, decision.rules[-1].sentence

    assert verdict(CandidateFacts(seen=seen)) == (
        "fail",
        "contamination: 1 of 100 items stand in the training data (2 rows; word for word, or at least 50% of "
        f"their 8-word sequences); 0 are let through. {question(7)[:60]!r} (word for word).",
    )
    listed = decide(policy, sound, {"baseline": sound}, CandidateFacts(seen=seen)).rules[-1].listed
    assert listed == (f"heldout {item(7)[:12]}, word for word: {question(7)}",)
    waiver = Waived("contamination", "known duplicates of v1", "ada")
    passed, said = verdict(CandidateFacts(seen=seen), waiver)
    assert passed == "pass"
    assert said.endswith("Waived by ada: known duplicates of v1.")
    assert verdict(CandidateFacts(seen=search(sound, ["heldout"], chats[:1], limits)))[0] == "pass"
    assert verdict(CandidateFacts(seen=None), waiver)[0] == "invalid", (
        "nobody looked, and that cannot be waived"
    )
    mute = evidence(tmp_path / "mute", [1.0] * 100, _row(lambda rows: rows[0].pop("asked")))
    decision = decide(policy, mute, {"baseline": sound}, CandidateFacts(seen=seen))
    assert decision.verdict == "invalid"
    assert "1 items were logged without their question" in decision.rules[-1].sentence
    nothing = evidence(tmp_path / "nothing", [1.0] * 100, late=_row(lambda rows: rows.clear()))
    decision = decide(
        policy, nothing, {"baseline": sound}, CandidateFacts(seen=search(nothing, ["heldout"], chats, limits))
    )
    assert decision.rules[-1].verdict == "invalid", "nothing was looked for, so nothing was shown"
    assert "there are no items of heldout to look for" in decision.rules[-1].sentence


def test_only_findings_can_be_waived(tmp_path: Path) -> None:
    sound = evidence(tmp_path / "base", [1.0] * 100)
    worse = evidence(tmp_path / "worse", [0.0] * 100)
    policy = GatePolicy.model_validate({"tasks": rule("keep", 0.1).tasks, "max_bytes": 99})
    name = policy.tasks[0].name
    waived = [Waived("size", "disk is cheap", "ada"), Waived(name, "never mind", "ada")]
    assert decide(policy, sound, {"baseline": sound}, waived=waived).verdict == "pass"
    assert decide(policy, sound, {"baseline": sound}, waived=waived[1:]).verdict == "fail"
    other = Waived("bits per weight", "disk is cheap", "ada")
    assert decide(policy, sound, {"baseline": sound}, waived=[other]).verdict == "fail"
    assert decide(policy, worse, {"baseline": sound}, waived=waived).verdict == "fail"


def test_overlap_is_counted_over_all_training_rows(tmp_path: Path) -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"

    def ask(_: Results, rows: list[Row]) -> None:
        rows[0]["asked"] = text

    found = evidence(tmp_path / "e", [1.0], ask)
    limits = Contamination(words=8, share=0.8)
    halves = [["x " + " ".join(words(text)[:10])], [" ".join(words(text)[2:]) + " y"]]
    assert [i.share for i in search(found, ["heldout"], halves, limits).items] == [1.0]
    assert search(found, ["heldout"], halves[:1], limits).items == ()
    assert search(found, ["heldout"], [["one two three four five six seven"]], limits).items == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"role": "keep", "margin": 0.0}, "needs a margin above 0"),
        ({"role": "keep", "margin": 2.0}, "is not a share of the items"),
        ({"role": "keep", "margin": float("inf"), "scores": "real"}, "finite number"),
        ({"role": "keep", "margin": 0.1, "any_of": "g"}, "any_of joins improve rules"),
        ({"role": "keep", "margin": 0.1, "alpha": 0.6}, "less than 0.5"),
    ],
)
def test_rules_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TaskRule.model_validate({"task": "t", "metric": "m", "against": "live", **changes})


def test_policies_that_make_no_sense_are_refused() -> None:
    claims = [
        {"task": "t", "metric": m, "role": "improve", "against": "live", "any_of": "g", "alpha": alpha}
        for m, alpha in (("a", 0.05), ("b", 0.01))
    ]
    with pytest.raises(ValidationError, match="share one alpha"):
        GatePolicy.model_validate({"tasks": claims})
    tasks = rule("keep", 0.1).tasks
    with pytest.raises(ValidationError, match="set at least one limit"):
        GatePolicy.model_validate({"tasks": tasks, "fidelity": [{"quant": "gptq"}]})
    with pytest.raises(ValidationError, match="names a quantization type twice"):
        GatePolicy.model_validate({"tasks": tasks, "fidelity": [LIMITS, LIMITS]})


def test_the_gate_needs_no_numeric_library() -> None:
    code = (
        "import sys, flows.gates.gate\n"
        "heavy = {'torch', 'numpy', 'transformers', 'lm_eval'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_channel_is_judged_against_the_base(tmp_path: Path) -> None:
    live = TaskRule(task="heldout", metric="exact_match", role="keep", against="live", margin=0.1)
    parent = TaskRule(task="heldout", metric="exact_match", role="keep", against="parent", margin=0.1)
    policy = GatePolicy(tasks=(live, parent))
    rules = without_live(policy).tasks
    assert [rule.against for rule in rules] == ["baseline", "parent"]
    assert rules[0].margin == live.margin
    sound = evidence(tmp_path / "base", [1.0] * 100)
    decision = decide(policy, sound, {"baseline": sound, "parent": sound})
    assert decision.verdict == "pass"
    assert decision.applied == without_live(policy).model_dump(mode="json")
    assert decide(policy, sound, {"live": sound, "parent": sound}).applied is None
    json.dumps(decision.model_dump(mode="json"), allow_nan=False)


NF4_WORDS = "NF4 with double quantization, computed in {} with transformers 5.19.0{} on cpu"
FLOAT16 = "float16 weights, computed in {} with transformers 5.19.0 on cpu"
GPTQ = "GPTQ by GPTQModel 7.6.0, float16 scales, computed in {} with transformers 5.19.0 on cpu"
GGUF = "GGUF Q4_K - Medium on llama.cpp (llama-cpp-python 0.3.36) on cpu"


@pytest.mark.parametrize(
    ("ours", "theirs", "alike"),
    [
        (NF4_WORDS.format("bfloat16", ", with a LoRA adapter"), NF4_WORDS.format("bfloat16", ""), True),
        (NF4_WORDS.format("float32", ", with a LoRA adapter"), NF4_WORDS.format("bfloat16", ""), False),
        (FLOAT16.format("float32"), FLOAT16.format("bfloat16"), False),
        (FLOAT16.format("float32"), "float16 weights with transformers 5.19.0 on cpu", False),
        ("bfloat16 weights with transformers 5.19.0, computed in float32, with a LoRA adapter on cpu",
         "bfloat16 weights with transformers 5.19.0 on cpu", False),
        (GPTQ.format("float32"), GPTQ.format("bfloat16"), False),
        # what a gate is about: a file and what it was made from, in two engines or in two forms
        (GGUF, FLOAT16.format("float32"), True),
        (GGUF, GGUF, True),
        (GGUF, NF4_WORDS.format("bfloat16", ""), True),
        (GPTQ.format("float32"), NF4_WORDS.format("bfloat16", ""), True),
        (FLOAT16.format("float32"), NF4_WORDS.format("bfloat16", ""), True),
        # a GPU computes in the type that is stored
        ("float16 weights with transformers 5.19.0 on cuda",
         "bfloat16 weights with transformers 5.19.0 on cuda", True),
        (None, FLOAT16.format("float32"), True),
        ("something of later", FLOAT16.format("float32"), True),
    ],
)  # fmt: skip
def test_like_forms_are_compared_in_one_arithmetic(
    tmp_path: Path, ours: str | None, theirs: str | None, alike: bool
) -> None:
    candidate = evidence(tmp_path / "candidate", [1.0] * 100, computed_with=ours)
    baseline = evidence(tmp_path / "base", [1.0] * 100, computed_with=theirs)
    for one, other in ((candidate, baseline), (baseline, candidate)):
        decision = decide(rule("keep", 0.5), one, {"baseline": other})
        assert (decision.verdict == "pass") == alike
        said = decision.rules[0].sentence
        assert ("evaluate both again in one type" in said) != alike
        assert alike or (str(ours) in said and str(theirs) in said)
