"""Judge one rule: paired statistics on the items that both evaluations logged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from flows.gates.checks import Comparison, called, problems
from flows.gates.evidence import Evidence
from flows.gates.judged.claim import from_labels, people_said, without_labels
from flows.gates.policy import WORDS, TaskRule, Verdict
from flows.gates.result import Differences, Method, RuleResult, sentence, verdict_between
from stages.statistics.cluster import FEWEST, Mean, clustered_mean, mean_items_needed
from stages.statistics.corpus import corpus_difference
from stages.statistics.exact import paired_interval
from stages.statistics.intervals import mcnemar
from stages.statistics.power import items_needed, pass_probability
from stages.statistics.roc import area_difference

FLIPS_SUMMED = 400
"""Flips up to which the power is summed exactly; beyond, the approximation is as good and much faster."""


def judge_tasks(
    rules: Iterable[TaskRule], candidate: Evidence, references: Mapping[str, Evidence], min_items: int
) -> list[RuleResult]:
    """The outcome of each rule. Those of an any_of group are corrected together, and those on slices that
    differ in nothing else."""
    results: list[RuleResult] = []
    groups: dict[object, list[TaskRule]] = {}
    for rule in rules:
        together = rule.any_of or rule.family
        if together is None:
            results.append(judge_rule(rule, candidate, references.get(rule.against), min_items))
        else:
            groups.setdefault(together, []).append(rule)
    for group in groups.values():
        results += _judge_group(group, candidate, references, min_items)
    return results


def judge_rule(
    rule: TaskRule,
    candidate: Evidence,
    reference: Evidence | None,
    min_items: int,
    alpha: float | None = None,
    choosing: bool = False,
) -> RuleResult:
    """The outcome of one rule at `alpha` (default: its own). Invalid where the two cannot be compared.

    `choosing`: by rows of the validation split, which no decision rests on.
    """
    if rule.slice is not None:
        candidate = _part(rule, candidate)
        reference = None if reference is None else _part(rule, reference)
    if reference is None:
        reasons = [f"there is no evaluation of {WORDS[rule.against]}; evaluate it on the same tasks"]
    else:
        reasons = problems(Comparison(rule, candidate, reference, min_items, choosing))
    if reasons or reference is None:
        message = f"{rule.name}: " + "; ".join(reasons)
        return RuleResult(rule=rule.name, verdict="invalid", sentence=message, group=rule.any_of)
    differences = paired(rule, candidate, reference)
    risk, other = alpha or rule.alpha, called(rule, reference)
    said = people_said(rule, candidate, reference)
    if said is not None and (result := from_labels(rule, differences, said, risk, other)) is not None:
        return result
    result = (
        _binary(rule, differences, risk)
        if rule.scores == "binary"
        else _real(rule, differences, risk, candidate, reference)
    )
    if result.sentence:
        return result
    result = result.model_copy(update={"sentence": sentence(rule, result, other)})
    return result if said is None else without_labels(rule, result, said, other)


def _judge_group(
    rules: list[TaskRule], candidate: Evidence, references: Mapping[str, Evidence], min_items: int
) -> list[RuleResult]:
    """Holm 1979 (Scandinavian Journal of Statistics 6:65): one of the claims is enough, or each is read by
    itself, so each is tested at alpha over the number of claims that are still open."""
    shown: dict[TaskRule, RuleResult] = {}
    while True:
        share = rules[0].alpha / max(1, len(rules) - len(shown))
        results = {
            rule: shown.get(rule)
            or judge_rule(rule, candidate, references.get(rule.against), min_items, share)
            for rule in rules
        }
        new = {rule: r for rule, r in results.items() if r.verdict == "pass" and rule not in shown}
        if not new:
            return list(results.values())
        shown |= new


def _part(rule: TaskRule, evidence: Evidence) -> Evidence:
    """The evidence with the items of the rule's slice only."""
    task = evidence.tasks.get(rule.task)
    if task is None or rule.slice is None:
        return evidence
    return evidence.model_copy(update={"tasks": {**evidence.tasks, rule.task: task.of(rule.slice)}})


def paired(rule: TaskRule, candidate: Evidence, reference: Evidence) -> Differences:
    """The differences that a rule judges. Items are matched by digest; `problems` found none unmatched."""
    ours, theirs = candidate.tasks[rule.task], reference.tasks[rule.task]
    mine, other = ours.scores[rule.metric], theirs.scores[rule.metric]
    items = sorted(mine.keys() & other.keys())
    return Differences(
        values=tuple(mine[item] - other[item] for item in items),
        clusters=tuple(ours.clusters.get(item, item) for item in items),
    )


def _binary(rule: TaskRule, differences: Differences, alpha: float) -> RuleResult:
    n = len(differences.values)
    gained, lost = sum(d > 0 for d in differences.values), sum(d < 0 for d in differences.values)
    mean = clustered_mean(differences.values, differences.clusters, alpha) if differences.clustered else None
    design, clusters = (mean.design, mean.clusters) if mean else (1.0, 0)
    bounds = paired_interval(gained, lost, n, rule.threshold, alpha, design, clusters)
    verdict = verdict_between(bounds.low, bounds.high, rule.threshold)
    share = max(gained + lost, 1) / n  # models that agreed on all items so far need not agree on the next
    effect = (gained - lost) / n
    total = items_needed(share, effect, rule.threshold, alpha, rule.power)
    return RuleResult(
        rule=rule.name, verdict=verdict, sentence="",
        method="tango-clustered" if mean else "tango",
        effect=effect, low=bounds.low, high=bounds.high, threshold=rule.threshold, alpha=alpha, n=n,
        clusters=clusters or None, gained=gained, lost=lost, discordant=gained + lost,
        mcnemar=mcnemar(gained, lost), power=_power(rule, share, round(n / design), alpha),
        more_items=_more(verdict, total and math.ceil(total * design), n), group=rule.any_of,
    )  # fmt: skip


def _real(
    rule: TaskRule, differences: Differences, alpha: float, candidate: Evidence, reference: Evidence
) -> RuleResult:
    n = len(differences.values)
    if len(set(differences.clusters)) < 2:
        unit = "cluster" if differences.clustered else "item"
        message = f"{rule.name}: has a single {unit}; no spread can be known"
        return RuleResult(rule=rule.name, verdict="invalid", sentence=message, group=rule.any_of)
    try:
        mean, method = _mean(rule, differences, candidate, reference, alpha)
    except ValueError as error:
        return RuleResult(
            rule=rule.name, verdict="invalid", sentence=f"{rule.name}: {error}", group=rule.any_of
        )
    good = candidate.tasks[rule.task].good.values()
    telling = min([mean.moved, *([sum(good), len(good) - sum(good)] if good else [])])
    verdict = verdict_between(mean.low, mean.high, rule.threshold)
    if telling < FEWEST:
        verdict = "insufficient"
    spread = mean.error * math.sqrt(n)
    total = mean_items_needed(spread, mean.value, rule.threshold, alpha, rule.power) if spread else None
    fewest = math.ceil(n * FEWEST / telling) if telling else None
    if total is not None and fewest is not None:
        total = max(total, fewest)
    each = method == "clustered-mean"
    return RuleResult(
        rule=rule.name, verdict=verdict, sentence="", method=method,
        effect=mean.value, low=mean.low, high=mean.high, threshold=rule.threshold, alpha=alpha, n=n,
        clusters=mean.clusters if differences.clustered else None,
        gained=None if good else sum(d > 0 for d in differences.values),
        lost=None if good else sum(d < 0 for d in differences.values),
        discordant=sum(d != 0 for d in differences.values) if each else mean.moved,
        power=_mean_power(rule, mean, alpha),
        more_items=_more(verdict, total, n), group=rule.any_of,
    )  # fmt: skip


def _mean(
    rule: TaskRule, differences: Differences, candidate: Evidence, reference: Evidence, alpha: float
) -> tuple[Mean, Method]:
    """The difference with its bounds, and how they were found."""
    ours, theirs = candidate.tasks[rule.task], reference.tasks[rule.task]
    if ours.good:
        items = sorted(ours.good)
        mine, other = ([task.scores[rule.metric][item] for item in items] for task in (ours, theirs))
        good = [ours.good[item] for item in items]
        return area_difference(mine, other, good, differences.clusters, alpha), "area"
    if rule.metric in ours.together:
        return _together(rule, candidate, reference, alpha), "bootstrap"
    return clustered_mean(differences.values, differences.clusters, alpha), "clustered-mean"


def _together(rule: TaskRule, candidate: Evidence, reference: Evidence, alpha: float) -> Mean:
    """The difference of a figure of all items, whose interval is bootstrapped over items or clusters."""
    ours, theirs = candidate.tasks[rule.task], reference.tasks[rule.task]
    mine, other = ours.together[rule.metric], theirs.together[rule.metric]
    items = sorted(mine.counts.keys() & other.counts.keys())
    clusters = [ours.clusters.get(item, item) for item in items]
    counts = ([mine.counts[item] for item in items], [other.counts[item] for item in items])
    return corpus_difference(mine.figure, *counts, clusters, alpha)


def _more(verdict: Verdict, total: int | None, n: int) -> int | None:
    return None if verdict != "insufficient" or total is None else max(1, total - n)


def _power(rule: TaskRule, share: float, n: int, alpha: float) -> float | None:
    """Chance to pass at the difference planned for, with as many flips as were seen (at least that many)."""
    rate = min(1.0, max(share, abs(rule.planned)))
    if rule.planned <= rule.threshold:
        return None
    if rate * n <= FLIPS_SUMMED:
        return pass_probability(n, rate, rule.planned, rule.threshold, alpha)
    return _normal_power((rule.planned - rule.threshold) / math.sqrt((rate - rule.planned**2) / n), alpha)


def _mean_power(rule: TaskRule, mean: Mean, alpha: float) -> float | None:
    if rule.planned <= rule.threshold or not mean.error:
        return None
    return _normal_power((rule.planned - rule.threshold) / mean.error, alpha)


def _normal_power(distance: float, alpha: float) -> float:
    from statistics import NormalDist

    return NormalDist().cdf(distance - NormalDist().inv_cdf(1 - alpha))
