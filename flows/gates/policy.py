"""A gate's policy: what an artifact has to prove before a channel may point to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from registry.artifacts import Record, digest

Verdict = Literal["pass", "fail", "insufficient", "invalid"]
Reference = Literal["baseline", "parent", "live"]
WORDS: Mapping[Reference, str] = {
    "baseline": "the quantized base",
    "parent": "what it was made from",
    "live": "the channel's current artifact",
}


class FiniteRecord(Record):
    """One whose numbers are neither infinite nor NaN."""

    model_config = ConfigDict(allow_inf_nan=False)


class TaskRule(FiniteRecord):
    """One claim about one metric of one task."""

    task: str = Field(description="name of the task in the evaluation")
    metric: str = Field(description="name of the metric, e.g. `exact_match`")
    role: Literal["improve", "keep"] = Field(
        description="improve: be better by more than the margin; keep: be worse by less than the margin"
    )
    against: Reference = Field(
        description="baseline: the quantized base; parent: what it was made from (the merged model, or base "
        "and adapter as trained); live: the channel's artifact (the quantized base while it is empty)"
    )
    margin: float = Field(
        default=0.0, ge=0, description="in the metric's unit; of a share, 0.02 is two points in a hundred"
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="risk of passing wrongly, one-sided")
    power: float = Field(
        default=0.8, gt=0, lt=1, description="chance of passing that the number of items is planned for"
    )
    expected: float | None = Field(
        default=None,
        description="true difference that is planned for; default: 0 for keep, twice the margin for improve "
        "(of shares, where that is more than 1: half the way from the margin to 1)",
    )
    scores: Literal["binary", "real"] = Field(
        default="binary",
        description="binary: each item scores 0 or 1 (Tango's interval); real: any numbers (a cluster-robust "
        "interval of the mean difference)",
    )
    slice: str | None = Field(
        default=None,
        pattern=r"^[^=]+=.*$",
        exclude_if=lambda part: part is None,  # a policy of before there were slices has the same digest
        description="`FIELD=VALUE`: only the items that have this value, in a column that `prepare.slices` "
        "keeps, or in an expected answer that is a JSON object; "
        "of rules on several slices that differ in nothing else, Holm's correction applies",
    )
    trust_judge: bool = Field(
        default=False,
        exclude_if=lambda trust: not trust,  # a policy of before there were judges has the same digest
        description="of a metric that a judge scores: believe the judge where people labelled too few; "
        "without it such a rule ends `insufficient`",
    )
    any_of: str | None = Field(
        default=None,
        description="name of a group of improve rules of which one is enough; Holm's correction applies",
    )

    @model_validator(mode="after")
    def _sensible(self) -> TaskRule:
        if self.role == "keep" and self.margin == 0:
            raise ValueError(
                "role keep needs a margin above 0: no number of items can prove a drop of exactly 0"
            )
        if self.scores == "binary" and not self.margin < 1:
            raise ValueError(f"a margin of {self.margin:g} is not a share of the items; 0.02 is two points")
        if self.scores == "binary" and self.expected is not None and not -1 <= self.expected <= 1:
            raise ValueError(
                f"expected: a difference of {self.expected:g} is not a share; 0.02 is two points"
            )
        if self.any_of is not None and self.role != "improve":
            raise ValueError("any_of joins improve rules; a keep rule must hold in any case")
        return self

    @property
    def name(self) -> str:
        return f"{self.measured} {self.role} against {self.against}"

    @property
    def measured(self) -> str:
        """What is measured, on which items."""
        return f"{self.task}/{self.metric}" + (f"[{self.slice}]" if self.slice else "")

    @property
    def family(self) -> tuple[str, str, str, str] | None:
        """What rules on slices have in common that are corrected together; None for a rule on all items."""
        return (self.task, self.metric, self.role, self.against) if self.slice else None

    @property
    def threshold(self) -> float:
        """The difference, candidate minus reference, that has to be exceeded."""
        return self.margin if self.role == "improve" else -self.margin

    @property
    def planned(self) -> float:
        """The true difference that the number of items is planned for."""
        if self.expected is not None:
            return self.expected
        if self.role == "keep":
            return 0.0
        double = 2 * self.margin or 0.02
        # no share can differ by more than 1: half the way from the margin to it then
        return double if self.scores == "real" or double <= 1 else (1 + self.margin) / 2


class FidelityLimits(FiniteRecord):
    """How near a file of one quantization type has to be to the model it was made from."""

    quant: str = Field(
        description="`gptq`, a GGUF type such as `Q4_K_M` or `Q8_0`, or `none` for a merged model"
    )
    task: str | None = Field(
        default=None,
        description="name of the fidelity task; default: every one that compares with the file's own parent",
    )
    kl_mean: float | None = Field(default=None, gt=0, description="at most, in nats per token")
    kl_p99: float | None = Field(default=None, gt=0, description="at most, in nats per token")
    same_top: float | None = Field(
        default=None, gt=0, le=1, description="at least, share of tokens with the same likeliest token"
    )
    flips: float | None = Field(
        default=None, ge=0, le=1, description="at most, share of answers that changed, either way"
    )
    perplexity_ratio: float | None = Field(default=None, gt=0, description="at most")
    answer_kl_mean: float | None = Field(default=None, gt=0, description="at most, on the answers' tokens")
    answer_perplexity_ratio: float | None = Field(
        default=None, gt=0, description="at most, on the answers' tokens"
    )

    @model_validator(mode="after")
    def _says_something(self) -> FidelityLimits:
        if not self.limits:
            raise ValueError(f"fidelity of {self.quant}: set at least one limit, for example kl_mean")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Metric → limit, of those that are set."""
        limits = self.model_dump(exclude={"quant", "task"}, exclude_none=True)
        return {metric: float(limit) for metric, limit in limits.items()}


class RequiredEvidence(FiniteRecord):
    """What has to have been measured, whatever the rules compare."""

    tasks: tuple[str, ...] = Field(default=(), description="tasks that the candidate's evaluation holds")
    min_items: int = Field(default=1, ge=1, description="fewest items of each task that a rule compares")
    lineage: bool = Field(
        default=False, description="the registry knows the base, the adapter and the training data"
    )
    verified: bool = Field(
        default=False, description="every byte of the candidate is read again and matches its digest"
    )


class Contamination(FiniteRecord):
    """Which items count as seen in training, and how many of them are let through."""

    words: int = Field(default=8, ge=3, description="length of the word sequences that are looked for")
    share: float = Field(
        default=0.5, gt=0, le=1, description="share of an item's sequences in the training data that counts"
    )
    max_items: int = Field(default=0, ge=0, description="such items that are let through")


class Slow(FiniteRecord):
    """Which answers count as slow, and how many more of them are let through."""

    over_ms: float = Field(gt=0, description="a whole answer that takes longer is slow")
    margin: float = Field(gt=0, lt=1, description="share of slow answers more than the live artifact has")


GUARDRAILS = ("errors", "cut off", "slow", "not JSON", "disliked")


class CanaryPolicy(FiniteRecord):
    """What a candidate has to show on live traffic, after the gate and before the channel moves."""

    percent: float = Field(
        default=10.0,
        gt=0,
        lt=100,  # with all of them there is nothing to compare with
        description="of the conversations, answered by it",
    )
    errors: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="margin: to be promoted, it must be shown that its share of failed answers is above the "
        "live artifact's by less than this",
    )
    cut_off: float | None = Field(
        default=None, gt=0, lt=1, description="the same of answers that the length limit ended"
    )
    slow: Slow | None = Field(default=None, description="the same of slow answers")
    not_json: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        exclude_if=lambda margin: margin is None,  # a policy of before there were any has the same digest
        description="the same of answers that are not one JSON document; for recipes whose answers are JSON",
    )
    disliked: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        exclude_if=lambda margin: margin is None,
        description="the same of rated answers: thumbs down, a score below 0.5, or a correction",
    )
    alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="risk of promoting one that is worse by a margin or more"
    )
    harm_alpha: float = Field(default=0.05, gt=0, lt=0.5, description="risk of stopping one that is no worse")
    max_requests: int = Field(
        default=20_000, ge=100, description="answers of the candidate after which it is given up"
    )
    max_hours: float = Field(default=24.0, gt=0, description="hours after which it is given up")

    @property
    def margins(self) -> dict[str, float]:
        """Guardrail → its margin."""
        slow = self.slow.margin if self.slow else None
        every = (self.errors, self.cut_off, slow, self.not_json, self.disliked)
        return {name: m for name, m in zip(GUARDRAILS, every, strict=True) if m is not None}


class GatePolicy(FiniteRecord):
    """What an artifact has to prove before a channel may point to it."""

    tasks: tuple[TaskRule, ...] = Field(min_length=1, description="all must hold, but for any_of groups")
    fidelity: tuple[FidelityLimits, ...] = Field(
        default=(), description="limits by quantization type; those of the candidate's type apply"
    )
    max_bytes: int | None = Field(default=None, ge=1, description="ceiling on the size of the weights")
    max_bits_per_weight: float | None = Field(default=None, gt=0, description="ceiling, as measured")
    max_latency_ms: float | None = Field(
        default=None, gt=0, description="ceiling on the 95th percentile, from `--latency FILE`"
    )
    evidence: RequiredEvidence = Field(default_factory=RequiredEvidence)
    contamination: Contamination | None = Field(
        default=None, description="look for the evaluation's items in the training data; without it, no check"
    )
    canary: CanaryPolicy | None = Field(
        default=None,
        exclude_if=lambda canary: canary is None,  # a policy of before there were any has the same digest
        description="what a candidate has to show on live traffic before the channel moves; without it, "
        "the gate's verdict moves the channel",
    )

    @model_validator(mode="after")
    def _groups_share_their_risk(self) -> GatePolicy:
        for group in {rule.any_of for rule in self.tasks} - {None}:
            _require_one_alpha(f"any_of {group!r}", [rule for rule in self.tasks if rule.any_of == group])
        for family in {rule.family for rule in self.tasks if rule.family and rule.any_of is None}:
            sliced = [rule for rule in self.tasks if rule.family == family and rule.any_of is None]
            _require_one_alpha(f"slices of {family[0]}/{family[1]}", sliced)
        quants = [limits.quant for limits in self.fidelity]
        if len(set(quants)) != len(quants):
            raise ValueError(f"fidelity names a quantization type twice: {', '.join(quants)}")
        return self

    @property
    def digest(self) -> str:
        """sha256 of the policy with all its defaults written out: two files that mean the same have one."""
        return digest(self.model_dump(mode="json"))


def without_live(policy: GatePolicy) -> GatePolicy:
    """`policy` for a channel that serves nothing yet: the base takes the place of what is live."""
    rules = (
        rule.model_copy(update={"against": "baseline"}) if rule.against == "live" else rule
        for rule in policy.tasks
    )
    return policy.model_copy(update={"tasks": tuple(rules)})


def _require_one_alpha(together: str, rules: Sequence[TaskRule]) -> None:
    """Raise ValueError where rules whose risk is one do not name one `alpha`."""
    alphas = {rule.alpha for rule in rules}
    if len(alphas) > 1:
        raise ValueError(f"the rules of {together} share one alpha, found {sorted(alphas)}")
