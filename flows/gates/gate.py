"""The gate: policy × evidence → verdict.

Paired statistics on the items that both sides logged, matched by digest and never by position.
Fails closed: whatever keeps the numbers from being comparable gives `invalid`, never `pass`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from flows.gates.contamination import Seen
from flows.gates.evidence import Evidence, load_evidence
from flows.gates.judged.labels import Labels, with_labels
from flows.gates.policy import FiniteRecord, GatePolicy, TaskRule, Verdict, without_live
from flows.gates.result import RuleResult
from flows.gates.rules import judge_tasks
from flows.gates.thresholds import judge_ceilings, judge_fidelity, judge_required

__all__ = [
    "EXIT_CODES",
    "CandidateFacts",
    "Decision",
    "Evidence",
    "GatePolicy",
    "RuleResult",
    "TaskRule",
    "Waived",
    "decide",
    "load_evidence",
    "without_live",
]

MOST_LISTED = 200
"""Contaminated items that a decision names; it counts all of them."""
SEVERITY: tuple[Verdict, ...] = ("pass", "insufficient", "fail", "invalid")
EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "fail": 1, "insufficient": 2, "invalid": 3}


@dataclass(frozen=True)
class CandidateFacts:
    """What is known of the candidate beyond its evaluation."""

    quant: str | None = None
    """`gptq`, a GGUF type, or `none`."""
    parent: str | None = None
    """Id of the artifact that it was quantized from; its fidelity is judged against that one."""
    fidelity: Evidence | None = None
    """The evaluation that compares it with its parent, where that is not the candidate's own evidence."""
    latency_ms: Sequence[float] | None = None
    """Durations of requests to it."""
    seen: Seen | None = None
    """Which evaluation items its training data hold; None: nobody looked."""
    unsearched: str = "the training data are not known"
    """Why nobody looked."""
    missing: tuple[str, ...] = ()
    """Required evidence that is not there, in words."""


@dataclass(frozen=True)
class Waived:
    """A finding that somebody answers for."""

    rule: str
    reason: str
    who: str


class Decision(FiniteRecord):
    verdict: Verdict
    rules: tuple[RuleResult, ...]
    evidence: dict[str, str] = Field(
        description="role → digest of the evaluation that was read; `labels` → sha256 of the file of labels"
    )
    evaluations: dict[str, str] = Field(
        default_factory=dict, description="role → id or path of the evaluation that was read"
    )
    applied: dict[str, Any] | None = Field(
        default=None, description="the policy as applied, where it is not the policy as written"
    )

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def decide(
    policy: GatePolicy,
    candidate: Evidence,
    references: Mapping[str, Evidence],
    facts: CandidateFacts | None = None,
    waived: Sequence[Waived] = (),
    labels: Labels | None = None,
) -> Decision:
    """Judge `candidate` by `policy` against `references` (role → evidence).

    The verdict is the worst of the rules': invalid, then fail, then insufficient. All rules must pass, so
    no correction for several claims is needed (an intersection-union test, Berger 1982); of an any_of group,
    Holm-corrected, the best counts. Rules against `live` are judged against the base while nothing is live.
    `labels`: what people said of answers, for metrics that a judge scores. Raises `Usage` for a label that is
    not on its metric's scale.
    """
    facts = facts or CandidateFacts()
    candidate = with_labels(candidate, labels)
    references = {role: with_labels(evidence, labels) for role, evidence in references.items()}
    applied = policy if "live" in references else without_live(policy)
    results = judge_tasks(applied.tasks, candidate, references, policy.evidence.min_items)
    results += judge_required(policy.evidence, candidate, facts.missing)
    results += judge_ceilings(policy, candidate, facts.latency_ms)
    results += judge_fidelity(policy.fidelity, facts.fidelity or candidate, facts.quant, facts.parent)
    if policy.contamination is not None:
        compared = {rule.task for rule in policy.tasks}
        results.append(_contamination(policy, candidate, compared, facts))
    results = [_waive(result, waived) for result in results]
    read = {"candidate": candidate, **references}
    if facts.fidelity is not None:
        read["fidelity"] = facts.fidelity
    return Decision(
        verdict=max(_counted(results), key=SEVERITY.index),
        rules=tuple(results),
        evidence={role: evidence.digest for role, evidence in read.items()}
        | ({"labels": labels.digest} if labels else {}),
        evaluations={role: evidence.artifact_id for role, evidence in read.items()},
        applied=None if applied == policy else applied.model_dump(mode="json"),
    )


def _counted(results: Sequence[RuleResult]) -> list[Verdict]:
    """The verdicts that make up the decision's: of a group the best one, unless one is invalid."""
    counted: list[Verdict] = [
        "pass" if result.waived else result.verdict for result in results if result.group is None
    ]
    for group in {result.group for result in results} - {None}:
        verdicts = [result.verdict for result in results if result.group == group]
        counted.append("invalid" if "invalid" in verdicts else min(verdicts, key=SEVERITY.index))
    return counted


def deciding(decision: Decision) -> list[RuleResult]:
    """The rules that the verdict comes from: of an any_of group only where its best one is that verdict."""
    return [
        rule
        for rule in decision.rules
        if rule.verdict == decision.verdict and rule.verdict in _counted(_with_its_group(rule, decision))
    ]


def _with_its_group(rule: RuleResult, decision: Decision) -> list[RuleResult]:
    return [rule] if rule.group is None else [r for r in decision.rules if r.group == rule.group]


def _contamination(
    policy: GatePolicy, candidate: Evidence, tasks: set[str], facts: CandidateFacts
) -> RuleResult:
    """Fail where more items than the policy lets through stand in the training data."""
    name, limits, seen = "contamination", policy.contamination, facts.seen
    assert limits is not None
    why = facts.unsearched if seen is None else _unsearched(candidate, tasks)
    if seen is None or why is not None:
        return RuleResult(rule=name, kind="contamination", verdict="invalid", sentence=f"{name}: {why}")
    held = len(seen.items)
    examples = "; ".join(f"{item.asked[:60]!r} ({item.why})" for item in seen.items[:3])
    sentence = (
        f"{name}: {held} of {seen.looked_for:,} items stand in the training data ({seen.rows:,} rows; word "
        f"for word, or at least {limits.share:.0%} of their {limits.words}-word sequences); "
        f"{limits.max_items} are let through{'. ' + examples if held else ''}."
    )
    verdict: Verdict = "pass" if held <= limits.max_items else "fail"
    listed = tuple(f"{i.task} {i.item[:12]}, {i.why}: {i.asked[:200]}" for i in seen.items[:MOST_LISTED])
    return RuleResult(
        rule=name, kind="contamination", verdict=verdict, sentence=sentence, n=seen.looked_for,
        discordant=held,
        listed=listed,
    )  # fmt: skip


def _unsearched(candidate: Evidence, tasks: set[str]) -> str | None:
    """Why a search for the items of `tasks` says nothing, or None."""
    logged = {key: task for key, task in candidate.tasks.items() if key in tasks and task.prompts}
    if absent := sorted(tasks - logged.keys()):
        return f"there are no items of {', '.join(absent)} to look for"
    unasked = sum(len(task.prompts) - len(task.asked) for task in logged.values())
    return f"{unasked} items were logged without their question: evaluate again" if unasked else None


def _waive(result: RuleResult, waived: Sequence[Waived]) -> RuleResult:
    """Findings can be answered for; what is invalid cannot, since nobody knows what it hides."""
    for waiver in waived:
        if waiver.rule == result.rule and result.kind != "task" and result.verdict == "fail":
            sentence = f"{result.sentence} Waived by {waiver.who}: {waiver.reason}."
            return result.model_copy(
                update={"waived": {"reason": waiver.reason, "who": waiver.who}, "sentence": sentence}
            )
    return result
