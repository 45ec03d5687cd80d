"""The outcome of one rule: its figures, and what they say in a sentence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.gates.policy import FiniteRecord, TaskRule, Verdict
from stages.statistics.cluster import FEWEST

Method = Literal["tango", "tango-clustered", "clustered-mean", "bootstrap", "area", "prediction-powered"]


class RuleResult(FiniteRecord):
    """One rule's outcome. `effect` is candidate minus reference, `low`/`high` its one-sided bounds."""

    rule: str
    verdict: Verdict
    sentence: str
    kind: Literal["task", "ceiling", "fidelity", "evidence", "contamination"] = "task"
    method: Method | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = Field(default=None, description="the difference or limit that is asked for")
    alpha: float | None = Field(default=None, description="one-sided, after Holm's correction in a group")
    n: int = 0
    clusters: int | None = None
    gained: int | None = None
    lost: int | None = None
    discordant: int = Field(default=0, description="items on which the two disagree")
    mcnemar: float | None = Field(default=None, description="two-sided mid-p, for information")
    power: float | None = Field(
        default=None,
        description="chance to pass with these items and flips if the true difference is the one planned for",
    )
    more_items: int | None = Field(default=None, description="about how many more would decide")
    labels: int | None = Field(
        default=None,
        exclude_if=lambda labels: labels is None,
        description="items that people labelled on both sides, of a metric that a judge scores",
    )
    more_labels: int | None = Field(
        default=None, exclude_if=lambda more: more is None, description="about how many more would decide"
    )
    judged: float | None = Field(
        default=None, exclude_if=lambda judged: judged is None, description="the difference as the judge says"
    )
    bias: float | None = Field(
        default=None,
        exclude_if=lambda bias: bias is None,
        description="by how much the judge's difference is above people's where there are labels",
    )
    judge_weight: float | None = Field(
        default=None,
        exclude_if=lambda weight: weight is None,
        description="what the judge counts beside the labels, 0 to 1",
    )
    group: str | None = None
    listed: tuple[str, ...] = Field(default=(), description="items that stand in the training data")
    waived: dict[str, str] | None = Field(default=None, description="reason and who")


class Differences(FiniteRecord):
    """Candidate minus reference, item by item, in the order of the items' digests."""

    values: tuple[float, ...]
    clusters: tuple[str, ...]

    @property
    def clustered(self) -> bool:
        return len(set(self.clusters)) < len(self.clusters)


def verdict_between(low: float, high: float, threshold: float) -> Verdict:
    """What the bounds of a difference show about a threshold that it has to exceed."""
    return "pass" if low > threshold else "fail" if high < threshold else "insufficient"


def figure(rule: TaskRule, value: float | None) -> str:
    """A difference with its sign, in points where it is one of shares."""
    assert value is not None
    return f"{100 * value:+.1f} points" if rule.scores == "binary" else f"{value:+.4g}"


def bounds(rule: TaskRule, result: RuleResult) -> str:
    """Both ends of the interval, and how sure each is."""
    low, high = (figure(rule, end).removesuffix(" points") for end in (result.low, result.high))
    return f"with {100 * (1 - (result.alpha or 0)):g} % confidence at least {low}, at most {high}"


def asked_of(rule: TaskRule) -> str:
    """What the rule asks for, in words."""
    margin = f"{100 * rule.margin:g} points" if rule.scores == "binary" else f"{rule.margin:g}"
    return f"better by more than {margin}" if rule.role == "improve" else f"worse by less than {margin}"


def figures(rule: TaskRule, result: RuleResult, other: str) -> str:
    """What was measured, every figure with what it was measured on; `other`: the other side."""
    grouped = f" in {result.clusters} clusters" if result.clusters else ""
    changed = "" if result.gained is None else f"{result.gained} gained, {result.lost} lost; "
    return (
        f"{rule.measured}: {figure(rule, result.effect)} against {other} on {result.n} paired"
        f" items{grouped} ({changed}{bounds(rule, result)})"
    )


def sentence(rule: TaskRule, result: RuleResult, other: str) -> str:
    """What was found, for people; `other`: the other side."""
    found, asked = figures(rule, result, other), asked_of(rule)
    if result.verdict == "pass":
        return f"{found}: shown to be {asked}."
    if result.verdict == "fail":
        return f"{found}: shown not to be {asked}."
    if rule.scores == "real" and result.discordant < FEWEST:
        few = f"only {result.discordant} items differ, at least {FEWEST} must for an interval of a mean"
        return f"{found}: too few differences to tell whether it is {asked}; {few}."
    wanted = (
        f"about {result.more_items:,} more items would decide if the difference stays as it is"
        if result.more_items is not None
        else "the difference lies at the margin, where no number of items decides"
    )
    return f"{found}: too few items to tell whether it is {asked}; {wanted}."
