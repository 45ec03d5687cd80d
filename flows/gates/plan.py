"""How many items a policy's rules need, before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from flows.gates.policy import FiniteRecord, GatePolicy, TaskRule
from stages.statistics.cluster import mean_items_needed
from stages.statistics.power import pass_probability, plan


class RulePlan(FiniteRecord):
    """Items that a rule needs where `flip_rate` of them differ and the true difference is `difference`."""

    rule: str
    scores: Literal["binary", "real"]
    flip_rate: float | None
    difference: float
    alpha: float
    items: int | None
    power: float | None
    power_with: float | None = None
    note: str = ""


def plan_rules(
    policy: GatePolicy, flip_rates: Sequence[float], items: int | None, spread: float | None
) -> list[RulePlan]:
    """A row per rule and flip rate. Of any_of groups and slices: at alpha over their number."""
    rows: list[RulePlan] = []
    for rule in policy.tasks:
        together = rule.any_of or rule.family
        group = sum((other.any_of or other.family) == together for other in policy.tasks) if together else 1
        alpha = rule.alpha / group
        if rule.scores == "binary":
            rows += [_binary(rule, rate, alpha, items) for rate in flip_rates]
        else:
            rows.append(_real(rule, spread, alpha, items))
    return rows


def _binary(rule: TaskRule, rate: float, alpha: float, items: int | None) -> RulePlan:
    difference, fields = rule.planned, {"rule": rule.name, "scores": rule.scores, "alpha": alpha}
    if difference <= rule.threshold:
        note = f"{rule.name}: the difference planned for does not clear the margin; set `expected` beyond it"
        return RulePlan(flip_rate=rate, difference=difference, items=None, power=None, note=note, **fields)
    if abs(difference) > rate:
        note = f"{rule.name}: a difference of {100 * difference:g} points needs at least that many flips"
        return RulePlan(flip_rate=rate, difference=difference, items=None, power=None, note=note, **fields)
    needed, power = plan(rate, difference, rule.threshold, alpha, rule.power) or (None, None)
    with_items = items and pass_probability(items, rate, difference, rule.threshold, alpha)
    return RulePlan(
        flip_rate=rate, difference=difference, items=needed, power=power, power_with=with_items, **fields
    )


def _real(rule: TaskRule, spread: float | None, alpha: float, items: int | None) -> RulePlan:
    fields = {"rule": rule.name, "scores": rule.scores, "alpha": alpha, "difference": rule.planned}
    if spread is None:
        note = f"{rule.name}: real scores; give --spread, the standard deviation of the difference"
        return RulePlan(flip_rate=None, items=None, power=None, note=note, **fields)
    needed = mean_items_needed(spread, rule.planned, rule.threshold, alpha, rule.power)
    normal = NormalDist()
    reached = (
        normal.cdf((rule.planned - rule.threshold) / spread * items**0.5 - normal.inv_cdf(1 - alpha))
        if items
        else None
    )
    return RulePlan(flip_rate=None, items=needed, power=rule.power, power_with=reached, **fields)
