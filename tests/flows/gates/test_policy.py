"""Policies: what a rule may ask for, and what makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.gates.gate import GatePolicy, TaskRule
from tests.flows.gates.judging import judge, rule

LIMITS = {"quant": "Q4_K_M", "kl_mean": 0.05, "same_top": 0.9}


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
