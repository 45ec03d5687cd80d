"""Simulated gates on good and bad answers: `python -m tests.reliability.labelled --trials 2000`.

Two models find answers likely, good ones more than bad ones; the areas under their ROC curves differ by
exactly the margin, so that passing is wrong, of which 5 % are promised. Answers stand alone, or four to a
prompt whose likelihoods have much in common. Also how often the interval of one model lies above or below its
area, of which 2.5 % each are promised. Values and outcomes are the product's. Exits with 1 where a gate
passes wrongly in more than 6 %, or a bound is wrong in more than 5 %, beyond chance.
"""

from __future__ import annotations

import argparse
import math
import sys
from statistics import NormalDist
from typing import Any

import numpy as np

from flows.gates.evidence import Evidence, TaskEvidence
from flows.gates.policy import TaskRule
from flows.gates.rules import judge_rule
from stages.statistics.roc import area_interval, pseudo_values

Array = np.ndarray[Any, Any]
SIZES = ((50, 50), (200, 200), (20, 180), (300, 50))
"""Good answers and bad ones."""
AREAS = (0.6, 0.8, 0.95)
"""Of the model that is not the candidate."""
PROMPTS = (1, 4)
"""Answers to a prompt."""
MARGIN, ALPHA, ALIKE, SHARED = 0.04, 0.05, 0.7, 0.5
"""`ALIKE`: the correlation of the two models' likelihoods; `SHARED`: that of answers to one prompt."""


def drawn(rng: np.random.Generator, sizes: tuple[int, int], areas: tuple[float, ...], each: int) -> Array:
    """Log-likelihoods by each model [models, answers], the good answers first; `each` k-th has one prompt."""
    count = sum(sizes)
    noise = _mixed(rng, (1, count), each) * math.sqrt(ALIKE)
    noise = noise + _mixed(rng, (len(areas), count), each) * math.sqrt(1 - ALIKE)
    apart = np.array([[math.sqrt(2) * NormalDist().inv_cdf(area)] for area in areas])
    return np.asarray(noise + apart * (np.arange(count) < sizes[0]))


def _mixed(rng: np.random.Generator, shape: tuple[int, int], each: int) -> Array:
    own = rng.standard_normal(shape)
    if each == 1:
        return own
    shared = rng.standard_normal(shape)[:, prompts(shape[1], each)]
    return np.asarray(own * math.sqrt(1 - SHARED) + shared * math.sqrt(SHARED))


def prompts(count: int, each: int) -> Array:
    """The prompt of each answer: those of one prompt are not all good, nor all bad."""
    return np.asarray(np.arange(count) % max(1, count // each))


def _side(values: list[float], good: list[bool], each: int) -> Evidence:
    names = [f"{n:06d}" for n in range(len(values))]
    clusters = dict(zip(names, map(str, prompts(len(values), each)), strict=True)) if each > 1 else {}
    scores = {"roc_auc": dict(zip(names, values, strict=True))}
    labels = dict(zip(names, good, strict=True))
    task = TaskEvidence(
        setting={}, prompts=dict.fromkeys(names, "p"), scores=scores, clusters=clusters, good=labels
    )
    return Evidence(
        artifact_id="a", digest="d", subject="s", setting={}, bytes=1, bits_per_weight=1.0, tasks={"t": task}
    )


def shares(
    rng: np.random.Generator, trials: int, sizes: tuple[int, int], area: float, each: int
) -> dict[str, float]:
    """Of `trials`: gates that pass wrongly by role, and intervals that lie above and below the area."""
    good = [place < sizes[0] for place in range(sum(sizes))]
    counts = dict.fromkeys(("improve", "keep", "above", "below"), 0)
    given = {"task": "t", "metric": "roc_auc", "against": "baseline", "scores": "real", "margin": MARGIN}
    for _ in range(trials):
        for role, other in (("improve", area + MARGIN), ("keep", area - MARGIN)):
            likely = drawn(rng, sizes, (other, area), each)
            ours, theirs = (pseudo_values(row.tolist(), good) for row in likely)
            sides = (_side(values, good, each) for values in (ours, theirs))
            rule = TaskRule.model_validate({**given, "role": role})
            counts[role] += judge_rule(rule, *sides, 1).verdict == "pass"
        low, high, _ = area_interval(theirs, good, prompts(len(good), each).tolist())
        counts["above"] += low > area
        counts["below"] += high < area
    return {name: count / trials for name, count in counts.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args(arguments).trials
    rng, missed = np.random.default_rng(16), False
    print(
        "| good, bad | area | answers to a prompt | improve passes wrongly | keep | interval above | below |"
    )
    print("|---|---|---|---|---|---|---|")
    for sizes in SIZES:
        for area in AREAS:
            for each in PROMPTS:
                found = shares(rng, trials, sizes, area, each)
                missed |= max(found["improve"], found["keep"]) > _limit(0.06, trials)
                missed |= max(found["above"], found["below"]) > _limit(0.05, trials)
                cells = " | ".join(f"{100 * share:.1f} %" for share in found.values())
                print(f"| {sizes[0]}, {sizes[1]} | {area} | {each} | {cells} |", flush=True)
    return int(missed)


def _limit(share: float, trials: int) -> float:
    return share + 3 * math.sqrt(share * (1 - share) / trials)


if __name__ == "__main__":
    sys.exit(main())
