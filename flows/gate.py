"""The gate: policy × evidence → verdict.

Binary metrics, compared on the same items with Tango's score interval; matched by item, never by position.
Fails closed: whatever keeps the numbers from being comparable gives `invalid`, never `pass`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, model_validator

from flows.evidence import Evidence, Record, TaskEvidence, load_evidence
from stages.intervals import Interval, items_needed, tango

__all__ = [
    "Decision",
    "Evidence",
    "GatePolicy",
    "RuleResult",
    "TaskRule",
    "decide",
    "load_evidence",
    "without_live",
]

Verdict = Literal["pass", "fail", "insufficient", "invalid"]
Reference = Literal["baseline", "parent", "live"]
WORDS: Mapping[Reference, str] = {
    "baseline": "the quantized base",
    "parent": "the merged model",
    "live": "the channel's current artifact",
}
SEVERITY: tuple[Verdict, ...] = ("pass", "insufficient", "fail", "invalid")
EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "fail": 1, "insufficient": 2, "invalid": 3}


class TaskRule(Record):
    """One claim about one metric of one task."""

    task: str = Field(description="name of the task in the evaluation")
    metric: str = Field(description="a metric with scores 0 and 1")
    role: Literal["improve", "keep"] = Field(
        description="improve: be better by more than the margin; keep: be worse by less than the margin"
    )
    against: Reference = Field(
        description="baseline: the quantized base; parent: the merged model; live: the channel's artifact "
        "(the quantized base while the channel is empty)"
    )
    margin: float = Field(default=0.0, ge=0, lt=1, description="share of the items, e.g. 0.02 for two points")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="risk of passing wrongly, one-sided")

    @model_validator(mode="after")
    def _keep_needs_room(self) -> TaskRule:
        if self.role == "keep" and self.margin == 0:
            raise ValueError(
                "role keep needs a margin above 0: no number of items can prove a drop of exactly 0"
            )
        return self


class GatePolicy(Record):
    """What an artifact has to prove before a channel may point to it."""

    tasks: tuple[TaskRule, ...] = Field(min_length=1)
    max_bytes: int | None = Field(default=None, ge=1, description="ceiling on the size of the weights")
    max_bits_per_weight: float | None = Field(default=None, gt=0, description="ceiling, as measured")


def without_live(policy: GatePolicy) -> GatePolicy:
    """`policy` for a channel that serves nothing yet: the base takes the place of what is live."""
    rules = (
        rule.model_copy(update={"against": "baseline"}) if rule.against == "live" else rule
        for rule in policy.tasks
    )
    return policy.model_copy(update={"tasks": tuple(rules)})


class RuleResult(Record):
    """One rule's outcome. `effect` is candidate minus reference, `low`/`high` its one-sided bounds."""

    rule: str
    verdict: Verdict
    sentence: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    discordant: int = Field(default=0, description="items on which the two disagree")
    more_items: int | None = Field(default=None, description="about how many more would decide (power 0.8)")


class Decision(Record):
    verdict: Verdict
    rules: tuple[RuleResult, ...]
    evidence: dict[str, str] = Field(description="role → digest of the evaluation that was read")

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def decide(policy: GatePolicy, candidate: Evidence, references: Mapping[str, Evidence]) -> Decision:
    """Judge `candidate` by `policy` against `references` (role → evidence).

    The verdict is the worst of the rules': invalid, then fail, then insufficient. All rules must pass, so
    no correction for several claims is needed (an intersection-union test, Berger 1982).
    """
    results = [_judge_rule(rule, candidate, references.get(rule.against)) for rule in policy.tasks]
    results += _judge_ceilings(policy, candidate)
    verdict = max((result.verdict for result in results), key=SEVERITY.index)
    digests = {role: evidence.digest for role, evidence in references.items()}
    return Decision(
        verdict=verdict, rules=tuple(results), evidence={"candidate": candidate.digest, **digests}
    )


def _judge_rule(rule: TaskRule, candidate: Evidence, reference: Evidence | None) -> RuleResult:
    name = f"{rule.task}/{rule.metric} {rule.role} against {rule.against}"
    problems = list(_problems(rule, candidate, reference))
    if problems or reference is None:
        return RuleResult(rule=name, verdict="invalid", sentence=f"{name}: " + "; ".join(problems))
    ours = candidate.tasks[rule.task].scores[rule.metric]
    theirs = reference.tasks[rule.task].scores[rule.metric]
    gained = sum(ours[item] > theirs[item] for item in ours)
    lost = sum(ours[item] < theirs[item] for item in ours)
    return _compare(rule, name, gained, lost, len(ours))


def _compare(rule: TaskRule, name: str, gained: int, lost: int, n: int) -> RuleResult:
    threshold = rule.margin if rule.role == "improve" else -rule.margin
    bounds = tango(gained, lost, n, rule.alpha)
    verdict: Verdict = "insufficient"
    if bounds.low > threshold:
        verdict = "pass"
    elif bounds.high < threshold:
        verdict = "fail"
    effect = (gained - lost) / n
    more = _more_items(rule, gained, lost, n, threshold) if verdict == "insufficient" else None
    return RuleResult(
        rule=name,
        verdict=verdict,
        sentence=_sentence(rule, effect, bounds, n, gained, lost, verdict, more),
        effect=effect,
        low=bounds.low,
        high=bounds.high,
        n=n,
        discordant=gained + lost,
        more_items=more,
    )


def _more_items(rule: TaskRule, gained: int, lost: int, n: int, threshold: float) -> int | None:
    # One pseudo-item that flipped: models that agreed on every item so far need not agree on the next ones.
    share = max(gained + lost, 1) / n
    total = items_needed(share, (gained - lost) / n, threshold, rule.alpha)
    return None if total is None else max(1, total - n)


def _problems(rule: TaskRule, candidate: Evidence, reference: Evidence | None) -> Iterable[str]:
    """Every reason why the two evaluations cannot be compared by this rule."""
    if reference is None:
        yield f"there is no evaluation of {WORDS[rule.against]}; evaluate it on the same tasks"
        return
    yield from candidate.problems
    yield from (f"{WORDS[rule.against]}: {problem}" for problem in reference.problems)
    yield from _differences("", candidate.setting, reference.setting)
    tasks = [evidence.tasks.get(rule.task) for evidence in (candidate, reference)]
    for whose, task in zip(("the candidate", WORDS[rule.against]), tasks, strict=True):
        if task is None or rule.metric not in task.scores:
            yield f"{whose} was not measured on {rule.task} with {rule.metric}"
        elif not set(task.scores[rule.metric].values()) <= {0.0, 1.0}:
            yield f"{rule.metric} of {whose} has scores other than 0 and 1, which this gate cannot judge"
    ours, theirs = tasks
    if ours is not None and theirs is not None:
        yield from _differences(f"{rule.task}: ", ours.setting, theirs.setting)
        yield from _unmatched(ours, theirs)


def _differences(where: str, ours: Mapping[str, object], theirs: Mapping[str, object]) -> Iterable[str]:
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield f"{where}{key.replace('_', ' ')} differs ({ours.get(key)} against {theirs.get(key)})"


def _unmatched(ours: TaskEvidence, theirs: TaskEvidence) -> Iterable[str]:
    alone = len(ours.prompts.keys() ^ theirs.prompts.keys())
    if alone:
        yield f"{alone} items were measured on one side only; both must see the same items"
    shared = ours.prompts.keys() & theirs.prompts.keys()
    reworded = sum(ours.prompts[item] != theirs.prompts[item] for item in shared)
    if reworded:
        yield f"{reworded} items were asked with different prompts"


def _judge_ceilings(policy: GatePolicy, candidate: Evidence) -> list[RuleResult]:
    ceilings = (
        ("size", candidate.bytes, policy.max_bytes, "bytes"),
        ("bits per weight", candidate.bits_per_weight, policy.max_bits_per_weight, "bits"),
    )
    return [_ceiling(*entry) for entry in ceilings if entry[2] is not None]


def _ceiling(name: str, found: float | None, ceiling: float, unit: str) -> RuleResult:
    if found is None:
        return RuleResult(
            rule=name, verdict="invalid", sentence=f"{name}: not measured; at most {ceiling} asked"
        )
    verdict: Verdict = "pass" if found <= ceiling else "fail"
    said = "within" if verdict == "pass" else "above"
    return RuleResult(
        rule=name, verdict=verdict, sentence=f"{name}: {found:,} {unit}, {said} the ceiling of {ceiling:,}"
    )


def _sentence(
    rule: TaskRule, effect: float, bounds: Interval, n: int, gained: int, lost: int, verdict: Verdict,
    more: int | None,
) -> str:  # fmt: skip
    asked = (
        f"better by more than {100 * rule.margin:g} points"
        if rule.role == "improve"
        else f"worse by less than {100 * rule.margin:g} points"
    )
    figures = (
        f"{rule.task}/{rule.metric}: {100 * effect:+.1f} points against {WORDS[rule.against]} on {n} paired "
        f"items ({gained} gained, {lost} lost; with {100 * (1 - rule.alpha):g} % confidence at least "
        f"{100 * bounds.low:+.1f}, at most {100 * bounds.high:+.1f})"
    )
    if verdict == "pass":
        return f"{figures}: shown to be {asked}."
    if verdict == "fail":
        return f"{figures}: shown not to be {asked}."
    wanted = (
        f"about {more} more items would decide if the difference stays as it is"
        if more is not None
        else "the difference lies at the margin, where no number of items decides"
    )
    return f"{figures}: too few items to tell whether it is {asked}; {wanted}."
