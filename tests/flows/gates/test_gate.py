"""Verdicts: what passes, what fails, and what is not known."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from flows.gates.gate import (
    CandidateFacts,
    Decision,
    GatePolicy,
    TaskRule,
    Waived,
    decide,
    load_evidence,
    without_live,
)
from tests.flows.evaluation_files import Results, Row
from tests.flows.gates.judging import evidence, judge, rule


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
