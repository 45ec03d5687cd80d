"""Evidence, policies of one rule, and the decision on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.gates.gate import Decision, Evidence, GatePolicy, TaskRule, decide, load_evidence
from tests.flows.evaluation_files import Change, Row, evaluation, write


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


def rows_changed(edit: Callable[[list[Row]], object]) -> Change:
    return lambda _, rows: (edit(rows), None)[1]
