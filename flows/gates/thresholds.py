"""The parts of a policy that are limits: size, latency, nearness to the parent, and required evidence."""

from __future__ import annotations

from collections.abc import Sequence

from flows.gates.evidence import Evidence, Fidelity
from flows.gates.policy import FidelityLimits, GatePolicy, RequiredEvidence, Verdict
from flows.gates.rules import RuleResult
from stages.statistics.exact import binomial_cdf

AT_LEAST = frozenset({"same_top"})
"""Metrics of which more is better."""
_ALPHA = 0.05
_PERCENTILE = 0.95


def judge_ceilings(
    policy: GatePolicy, candidate: Evidence, latency_ms: Sequence[float] | None
) -> list[RuleResult]:
    """Size and bits per weight as the evaluation recorded them, latency as it was measured."""
    results: list[RuleResult] = []
    if policy.max_bytes is not None:
        results.append(_ceiling("size", candidate.bytes, policy.max_bytes, "bytes"))
    if policy.max_bits_per_weight is not None:
        results.append(
            _ceiling("bits per weight", candidate.bits_per_weight, policy.max_bits_per_weight, "bits")
        )
    if policy.max_latency_ms is not None:
        results.append(_latency(latency_ms, policy.max_latency_ms))
    return results


def _ceiling(name: str, value: float | None, ceiling: float, unit: str) -> RuleResult:
    if value is None:
        sentence = f"{name}: not measured; at most {ceiling:,} asked"
        return RuleResult(rule=name, kind="ceiling", verdict="invalid", sentence=sentence)
    verdict: Verdict = "pass" if value <= ceiling else "fail"
    where = "within" if verdict == "pass" else "above"
    measured, most = (f"{x:,}" if isinstance(x, int) else f"{x:.6g}" for x in (value, ceiling))
    sentence = f"{name}: {measured} {unit}, {where} the ceiling of {most}"
    return RuleResult(
        rule=name, kind="ceiling", verdict=verdict, sentence=sentence, effect=value, threshold=ceiling
    )


def _latency(durations: Sequence[float] | None, ceiling: float) -> RuleResult:
    """The 95th percentile with exact bounds from the order of the durations (Hahn & Meeker 1991, 5.2)."""
    name = "latency"
    if not durations:
        sentence = f"{name}: not measured; give the durations of requests with --latency FILE"
        return RuleResult(rule=name, kind="ceiling", verdict="invalid", sentence=sentence)
    ordered, n = sorted(durations), len(durations)
    value = ordered[min(n - 1, int(_PERCENTILE * n))]
    # The k-th smallest is above the percentile when fewer than k of n fall below it.
    above = next((k for k in range(1, n + 1) if 1 - binomial_cdf(k - 1, n, _PERCENTILE) <= _ALPHA), None)
    below = next((k for k in range(n, 0, -1) if binomial_cdf(k - 1, n, _PERCENTILE) <= _ALPHA), None)
    low = ordered[below - 1] if below else 0.0
    if above is not None and ordered[above - 1] <= ceiling:
        verdict: Verdict = "pass"
    else:
        verdict = "fail" if low > ceiling else "insufficient"
    high = f"{ordered[above - 1]:.1f}" if above else "unknown"
    sentence = (
        f"{name}: 95th percentile {value:.1f} ms of {n} requests (95 % confidence: at least {low:.1f}, at "
        f"most {high}), ceiling {ceiling:g} ms"
    )
    sentence += "; measure at least 59 requests" if above is None else ""
    return RuleResult(
        rule=name, kind="ceiling", verdict=verdict, sentence=sentence, n=n, effect=value, low=low,
        high=ordered[above - 1] if above else None, threshold=ceiling,
    )  # fmt: skip


def judge_required(
    required: RequiredEvidence, candidate: Evidence, missing: Sequence[str]
) -> list[RuleResult]:
    """What has to be there, whatever the rules compare."""
    lacking = [name for name in required.tasks if name not in {**candidate.tasks, **candidate.fidelity}]
    reasons = [f"the candidate was not measured on {name}" for name in lacking] + list(missing)
    asked = bool(required.tasks or required.lineage or required.verified)
    if not asked:
        return []
    verdict: Verdict = "invalid" if reasons else "pass"
    message = "; ".join(reasons) if reasons else "all that the policy asks for is there"
    return [RuleResult(rule="evidence", kind="evidence", verdict=verdict, sentence=f"evidence: {message}")]


def judge_fidelity(
    policies: Sequence[FidelityLimits], measured: Evidence, quant: str | None, parent: str | None
) -> list[RuleResult]:
    """The limits of the candidate's quantization type, each on every fidelity task that it is about."""
    if not policies:
        return []
    if quant is None:
        return [_unknown("the candidate's quantization type is not known: give it with --quant")]
    limits = next((limits for limits in policies if limits.quant.lower() == quant.lower()), None)
    if limits is None:
        known = ", ".join(limits.quant for limits in policies)
        return [_unknown(f"the policy has no limits for {quant}; it has some for {known}")]
    if measured.problems:
        return [_unknown("; ".join(measured.problems))]
    tasks = {
        name: task
        for name, task in measured.fidelity.items()
        if name == limits.task or (limits.task is None and (parent is None or task.reference == parent))
    }
    if not tasks:
        whom = f"its parent {parent[:12]}" if parent else "its parent"
        return [_unknown(f"the candidate was not compared with {limits.task or whom}: evaluate its fidelity")]
    return [
        _limit(name, task, metric, limit, quant)
        for name, task in tasks.items()
        for metric, limit in limits.limits.items()
    ]


def _unknown(why: str) -> RuleResult:
    return RuleResult(rule="fidelity", kind="fidelity", verdict="invalid", sentence=f"fidelity: {why}")


def _limit(name: str, task: Fidelity, metric: str, limit: float, quant: str) -> RuleResult:
    """Pass where the whole interval keeps the limit, fail where all of it breaks it."""
    rule, figure = f"{name}/{metric}", task.metrics.get(metric)
    if figure is None or not task.finite:
        why = "was not measured" if task.finite else "comes from logits that are not finite"
        return RuleResult(rule=rule, kind="fidelity", verdict="invalid", sentence=f"{rule}: {why}")
    low, high = figure["low"], figure["high"]
    at_least = metric in AT_LEAST
    kept, broken = (low >= limit, high < limit) if at_least else (high <= limit, low > limit)
    verdict: Verdict = "pass" if kept else "fail" if broken else "insufficient"
    words = "at least" if at_least else "at most"
    sentence = (
        f"{rule}: {figure['value']:.4g} for {quant} on {figure['n']:,.0f} chats (95 % interval {low:.4g} to "
        f"{high:.4g}), {words} {limit:g} asked"
    )
    sentence += "; compare more chats" if verdict == "insufficient" else ""
    return RuleResult(
        rule=rule, kind="fidelity", verdict=verdict, sentence=sentence, n=int(figure["n"]),
        effect=figure["value"],
        low=low, high=high, threshold=limit,
    )  # fmt: skip
