"""The difference that people would find by a metric that a judge scores, and why none is shown without them.

With labels of answers drawn at random the interval holds whatever the judge's bias is
(`stages.statistics.prediction_powered`). Without, nobody knows how far the judge is off: the rule ends
`insufficient`, or takes the judge at its word where the policy says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flows.gates.evidence import TIE, Evidence, TaskEvidence
from flows.gates.policy import TaskRule, Verdict
from flows.gates.result import Differences, RuleResult, asked_of, bounds, figure, figures, verdict_between
from stages.statistics.cluster import FEWEST
from stages.statistics.prediction_powered import (
    CHOSEN,
    FEWEST_LABELS,
    PoweredMean,
    distance_of_labelled,
    labels_needed,
    prediction_powered_mean,
)

_DRAWN = "draw the items to label at random, and label all that were drawn"


class Said(NamedTuple):
    """By how much people score the candidate's answer higher, of each item in the order of the items'
    digests; None where nobody labelled both sides.

    `alike`: of each item 1.0 where both sides gave the very same answer, else 0.0. `half`: items labelled on
    one side only. `given`: whether there are labels at all. `span`: the width of the scale.
    """

    differences: tuple[float | None, ...]
    alike: tuple[float, ...]
    half: int
    given: bool
    span: float

    @property
    def labels(self) -> int:
        return sum(label is not None for label in self.differences)


def people_said(rule: TaskRule, candidate: Evidence, reference: Evidence) -> Said | None:
    """What people said of the items that the rule compares; None where no judge scores its metric."""
    ours, theirs = candidate.tasks[rule.task], reference.tasks[rule.task]
    scale = ours.scales.get(rule.metric)
    if scale is None:
        return None
    mine, other = _scored(ours, rule.metric), _scored(theirs, rule.metric)
    labelled = ours.labels.get(rule.metric, {}).keys() | theirs.labels.get(rule.metric, {}).keys()
    both = labelled & mine.keys() & other.keys()
    items = sorted(ours.scores[rule.metric].keys() & theirs.scores[rule.metric].keys())
    return Said(
        differences=tuple(mine[item] - other[item] if item in both else None for item in items),
        alike=tuple(float(ours.answers.get(item) == theirs.answers.get(item)) for item in items),
        half=len(labelled & set(items) - both),
        given=rule.metric in ours.labels,
        span=scale.span,
    )


def _scored(task: TaskEvidence, metric: str) -> dict[str, float]:
    """People's scores, and a tie for an answer that is the very one it is compared with."""
    others = task.scales[metric].others
    ties = {item: TIE for item, other in others.items() if task.answers.get(item) == other}
    return ties | task.labels.get(metric, {})


def from_labels(
    rule: TaskRule, differences: Differences, said: Said, alpha: float, other: str
) -> RuleResult | None:
    """The outcome by people's labels and the judge together; None where they are too few for one."""
    labels, clusters = said.differences, differences.clusters
    groups = {group for group, label in zip(clusters, labels, strict=True) if label is not None}
    if len(groups) < FEWEST_LABELS:
        return None
    if chosen := _chosen(said, differences):
        message = f"{rule.name}: {chosen}; {_DRAWN}"
        return RuleResult(rule=rule.name, verdict="invalid", sentence=message, group=rule.any_of)
    mean = prediction_powered_mean(differences.values, labels, clusters, alpha, said.span)
    moved = _moved(differences, labels)
    shows = moved >= FEWEST and not said.half
    verdict = verdict_between(mean.low, mean.high, rule.threshold) if shows else "insufficient"
    result = RuleResult(
        rule=rule.name, verdict=verdict, sentence="", method="prediction-powered",
        effect=mean.value, low=mean.low, high=mean.high, threshold=rule.threshold, alpha=alpha, n=mean.n,
        clusters=len(set(clusters)) if differences.clustered else None,
        gained=sum(d > 0 for d in differences.values), lost=sum(d < 0 for d in differences.values),
        discordant=moved, group=rule.any_of, labels=mean.labels, judged=mean.judged, bias=mean.bias,
        judge_weight=mean.weight, more_labels=said.half or _more(verdict, moved, rule, mean, alpha),
    )  # fmt: skip
    return result.model_copy(update={"sentence": _sentence(rule, result, other, said.half)})


def _chosen(said: Said, differences: Differences) -> str | None:
    """What shows that somebody chose the labelled items; None where nothing does."""
    labels, clusters = said.differences, differences.clusters
    if distance_of_labelled(differences.values, labels, clusters) > CHOSEN:
        found = "the judge finds another difference"
    elif distance_of_labelled(said.alike, labels, clusters) > CHOSEN:
        found = "both sides gave the same answer more or less often"
    else:
        return None
    return (
        f"{found} on the {said.labels} labelled items than on the others, more than chance explains, so they "
        "are no random ones"
    )


def without_labels(rule: TaskRule, result: RuleResult, said: Said, other: str) -> RuleResult:
    """What remains of an outcome that only a judge speaks for."""
    if result.verdict == "invalid":
        return result
    few = _few(said)
    if rule.trust_judge:
        warning = f"Warning: the judge is believed (trust_judge); it may be off by any amount: {few}."
        return result.model_copy(update={"sentence": f"{result.sentence} {warning}"})
    text = (
        f"{figures(rule, result, other)}: not shown to be {asked_of(rule)}, nor not to: a judge scored it, "
        f"and {few}, so how far it is off is not known; {_DRAWN}, and give them with --labels FILE"
    )
    nothing = {"verdict": "insufficient", "sentence": text, "power": None, "more_items": None}
    return result.model_copy(update={**nothing, "more_labels": FEWEST_LABELS})


def _few(said: Said) -> str:
    """Why the labels are too few."""
    if said.labels or said.half:
        one = f" ({said.half} more on one side only)" if said.half else ""
        return f"only {said.labels} items are labelled on both sides{one}, at least {FEWEST_LABELS} must be"
    if said.given:
        return "none of the given labels is about one of these answers, with this question and this metric"
    return "nobody labelled any of these answers"


def _moved(differences: Differences, labels: Sequence[float | None]) -> int:
    """Clusters with an item on which the judge, or people, find a difference."""
    triples = zip(differences.clusters, differences.values, labels, strict=True)
    return len({group for group, judged, label in triples if judged or label})


def _more(verdict: Verdict, moved: int, rule: TaskRule, mean: PoweredMean, alpha: float) -> int | None:
    if verdict != "insufficient" or moved < FEWEST:
        return None
    needed = labels_needed(mean, rule.threshold, alpha, rule.power)
    return None if needed is None else max(1, needed - mean.labels)


def _sentence(rule: TaskRule, result: RuleResult, other: str, half: int) -> str:
    asked = asked_of(rule)
    found = (
        f"{rule.measured}: {figure(rule, result.effect)} against {other} on {result.n} paired"
        f" items, {result.labels} of them labelled by people ({bounds(rule, result)}; the judge alone says "
        f"{figure(rule, result.judged)}, and is off by {figure(rule, result.bias)} where labels are)"
    )
    if result.verdict == "pass":
        return f"{found}: shown to be {asked}."
    if result.verdict == "fail":
        return f"{found}: shown not to be {asked}."
    if half:
        return (
            f"{found}: not shown to be {asked}, nor not to: {half} more items are labelled on one side only, "
            "and who has both may be special; label their other answers too"
        )
    if result.discordant < FEWEST:
        few = f"only {result.discordant} items differ, at least {FEWEST} must for an interval of a mean"
        return f"{found}: too few differences to tell whether it is {asked}; {few}."
    more = result.more_labels
    if more is None:
        wanted = "the difference lies at the margin, where no number of labels decides"
    else:
        what = "labels" if (result.labels or 0) + more <= result.n else "items with labels"
        wanted = f"about {more:,} more {what} would decide if the difference stays as it is"
    return f"{found}: too few labels to tell whether it is {asked}; {wanted}."
