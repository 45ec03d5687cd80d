"""Simulated pass@k: `python -m tests.reliability.pass_at --trials 2000`.

Items have a chance each that one drawn answer is right; n answers are drawn of each. How far the estimate is
off on average, beside that of the plain 1 - (1 - c/n)^k; how often the true pass@k lies below and above the
interval, of which 2.5 % each are promised; and how often a gate passes whose candidate is better, or worse,
by exactly the margin, so that passing is wrong, of which 5 % are promised. Estimates, intervals and outcomes
are the product's. Exits with 1 where the estimate is biased beyond chance, a gate passes wrongly in more than
6 %, or a bound is wrong in more than 8 %, which happens to Wilson's where nearly all items are certain.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flows.gates.evidence import Evidence, TaskEvidence
from flows.gates.policy import TaskRule
from flows.gates.rules import judge_rule
from stages.statistics.pass_at import pass_at_k, pass_interval

Array = np.ndarray[Any, Any]
Chances = Callable[[np.random.Generator, int], Array]
MARGIN, ALPHA = 0.05, 0.05
DRAWN = ((5, 1), (10, 5), (20, 10))
"""Answers of each item, and k."""
ITEMS = (50, 200)
POPULATION = 400_000


def _mostly(common: float) -> Chances:
    def chances(rng: np.random.Generator, n: int) -> Array:
        return np.where(rng.random(n) < 0.03, rng.random(n), common)

    return chances


KINDS: dict[str, Chances] = {
    "of all kinds": lambda rng, n: rng.beta(0.5, 0.5, n),
    "mostly hard": lambda rng, n: rng.beta(0.2, 2.0, n),
    "mostly easy": lambda rng, n: rng.beta(2.0, 0.2, n),
    "alike": lambda rng, n: np.full(n, 0.05),
    "3 % not hopeless": _mostly(0.0),
    "3 % not certain": _mostly(1.0),
}
"""How the chances of items lie → draws some."""


class Found(NamedTuple):
    """Means of the estimate, of the plain one and the truth; the standard error of the first; shares of
    intervals that lie wholly above and below the truth."""

    estimate: float
    plain: float
    truth: float
    error: float
    above: float
    below: float


def table(drawn: int, k: int) -> Array:
    """The estimate by how many are right: float64 of shape (drawn + 1,)."""
    return np.array([pass_at_k(drawn, right, k) for right in range(drawn + 1)])


def intervals(rng: np.random.Generator, trials: int, kind: str, items: int, drawn: int, k: int) -> Found:
    """Of `trials` evaluations."""
    truth = float((1 - (1 - KINDS[kind](rng, POPULATION)) ** k).mean())
    estimates, means, plain, above, below = table(drawn, k), [], 0.0, 0, 0
    for _ in range(trials):
        right = rng.binomial(drawn, KINDS[kind](rng, items))
        own = estimates[right]
        means.append(float(own.mean()))
        plain += float((1 - (1 - right / drawn) ** k).mean()) / trials
        low, high, _ = pass_interval(own.tolist(), range(items))
        above += truth < low - 1e-9
        below += truth > high + 1e-9
    spread = float(np.std(means) / math.sqrt(trials))
    return Found(float(np.mean(means)), plain, truth, spread, above / trials, below / trials)


def wrong_passes(
    rng: np.random.Generator, trials: int, role: str, items: int, drawn: int, k: int, moved: float
) -> float:
    """The share of gates that pass where the true difference of pass@k is exactly the margin.

    A share `moved` of the items differs, each by the margin over that share.
    """
    sign, step, passed = (1 if role == "improve" else -1), MARGIN / moved, 0
    for _ in range(trials):
        low, high = (0.0, 1 - step) if sign > 0 else (step, 1.0)
        reference = low + (high - low) * rng.beta(0.5, 0.5, items)
        candidate = np.clip(reference + sign * step * (rng.random(items) < moved), 0.0, 1.0)
        sides = (_side(rng, chances, drawn, k) for chances in (candidate, reference))
        passed += judge_rule(_rule(role), *sides, 1).verdict == "pass"
    return passed / trials


def _rule(role: str) -> TaskRule:
    given = {"task": "t", "metric": "pass@k", "role": role, "against": "baseline", "scores": "real"}
    return TaskRule.model_validate({**given, "margin": MARGIN, "alpha": ALPHA})


def _side(rng: np.random.Generator, passing: Array, drawn: int, k: int) -> Evidence:
    own = table(drawn, k)[rng.binomial(drawn, 1 - (1 - passing) ** (1 / k))].tolist()
    names = [f"{n:06d}" for n in range(len(own))]
    scores = {"pass@k": dict(zip(names, own, strict=True))}
    task = TaskEvidence(setting={}, prompts=dict.fromkeys(names, "p"), scores=scores)
    return Evidence(
        artifact_id="a", digest="d", subject="s", setting={}, bytes=1, bits_per_weight=1.0, tasks={"t": task}
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args(arguments).trials
    rng, missed = np.random.default_rng(16), False
    print("| items | answers, k | chances | true | estimate | plain estimate | interval above | below |")
    print("|---|---|---|---|---|---|---|---|")
    for items in ITEMS:
        for drawn, k in DRAWN:
            for kind in KINDS:
                found = intervals(rng, trials, kind, items, drawn, k)
                missed |= abs(found.estimate - found.truth) > 4 * found.error + 0.002
                missed |= max(found.above, found.below) > _limit(0.08, trials)
                means = f"{found.truth:.3f} | {found.estimate:.3f} | {found.plain:.3f}"
                sides = f"{100 * found.above:.1f} % | {100 * found.below:.1f} %"
                print(f"| {items} | {drawn}, {k} | {kind} | {means} | {sides} |", flush=True)
    print(
        "\n| items | answers, k | items that differ | improve passes wrongly | keep |\n|---|---|---|---|---|"
    )
    for items in ITEMS:
        for drawn, k in DRAWN:
            for moved in (0.1, 0.5, 1.0):
                shares = [
                    wrong_passes(rng, trials, role, items, drawn, k, moved) for role in ("improve", "keep")
                ]
                missed |= max(shares) > _limit(0.06, trials)
                cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
                print(f"| {items} | {drawn}, {k} | {100 * moved:.0f} % | {cells} |", flush=True)
    return int(missed)


def _limit(share: float, trials: int) -> float:
    return share + 3 * math.sqrt(share * (1 - share) / trials)


if __name__ == "__main__":
    sys.exit(main())
