"""Simulated gates on slices: `python -m tests.reliability.slices --trials 2000`.

Each slice lost exactly the margin, so that "worse by less than the margin" is wrong of each: how often it is
said of one, each at its own risk (without a correction) and corrected by Holm as a gate does, and how often a
gate passes, for which all of them have to. Power: how often all slices of a candidate that lost nothing are
shown so. Every outcome is that of `flows.gates.rules`. Exits with 1 where Holm's share is above 5 %, beyond
chance.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import NamedTuple

import numpy as np

from flows.gates.evidence import Evidence, TaskEvidence
from flows.gates.policy import TaskRule
from flows.gates.rules import judge_rule, judge_tasks

ALPHA, MARGIN, FLIPS = 0.05, 0.05, 0.1
SIZES = ((2, 500), (5, 200), (10, 100), (20, 100))
"""Slices, and items of each."""


class Shares(NamedTuple):
    """Of gates: those with a slice wrongly said to be kept, without and with Holm's correction, those that
    passed, and those that showed all slices kept where nothing had changed."""

    slices: int
    items: int
    alone: float
    holm: float
    passed: float
    shown: float


def rules(slices: int) -> list[TaskRule]:
    given = {"task": "t", "metric": "m", "role": "keep", "against": "baseline", "margin": MARGIN}
    return [TaskRule.model_validate({**given, "slice": f"part={k}"}) for k in range(slices)]


def sides(rng: np.random.Generator, slices: int, items: int, difference: float) -> tuple[Evidence, Evidence]:
    """Candidate and reference, whose true difference is the same in each slice."""
    n = slices * items
    gained, lost = (FLIPS + difference) / 2, (FLIPS - difference) / 2
    outcomes = rng.choice(3, size=n, p=[gained, lost, 1 - gained - lost])
    names = [f"{k:06d}" for k in range(n)]
    parts = {name: {"part": str(k // items)} for k, name in enumerate(names)}

    def side(good: int) -> Evidence:
        scores = dict(zip(names, (outcomes == good).astype(float).tolist(), strict=True))
        prompts = dict.fromkeys(names, "p")
        task = TaskEvidence(setting={}, prompts=prompts, scores={"m": scores}, parts=parts)
        return Evidence(
            artifact_id=str(good), digest="d", subject="s", setting={}, bytes=1, bits_per_weight=1.0,
            tasks={"t": task},
        )  # fmt: skip

    return side(0), side(1)


def shares(rng: np.random.Generator, trials: int, slices: int, items: int) -> Shares:
    claims = rules(slices)
    alone = holm = passed = shown = 0
    for _ in range(trials):
        ours, theirs = sides(rng, slices, items, -MARGIN)
        alone += any(judge_rule(claim, ours, theirs, 1).verdict == "pass" for claim in claims)
        found = [result.verdict == "pass" for result in judge_tasks(claims, ours, {"baseline": theirs}, 1)]
        holm += any(found)
        passed += all(found)
        ours, theirs = sides(rng, slices, items, 0.0)
        kept = judge_tasks(claims, ours, {"baseline": theirs}, 1)
        shown += all(result.verdict == "pass" for result in kept)
    return Shares(slices, items, *(count / trials for count in (alone, holm, passed, shown)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args(arguments).trials
    rng = np.random.default_rng(16)
    found = [shares(rng, trials, *size) for size in SIZES]
    print("| slices | items of each | one wrongly shown, alone | by Holm | gate passes | all kept |")
    print("|---|---|---|---|---|---|")
    for row in found:
        cells = " | ".join(f"{100 * share:.1f} %" for share in row[2:])
        print(f"| {row.slices} | {row.items} | {cells} |")
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / trials)
    return 1 if any(row.holm > limit for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
