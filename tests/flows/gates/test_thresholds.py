"""Ceilings and limits of fidelity: kept, broken, not shown, and not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows.gates.gate import CandidateFacts, Decision, Evidence, GatePolicy, decide
from tests.flows.evaluation_files import fidelity_task
from tests.flows.gates.judging import evidence, rule


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
