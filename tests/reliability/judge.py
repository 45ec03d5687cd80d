"""Simulated gates on what a judge scores: `python -m tests.reliability.judge --trials 4000`.

Two models differ by exactly the margin, so that passing is always wrong; judges of several kinds score all
items, and people label some that were drawn at random. With 200 labels a gate that promises 5 % must keep it,
whoever judges, in either role, for shares, pairs, grades and chats. Without labels, for a judge that is
believed, the share of wrong passes is shown beside it. Power: how often a real improvement is shown, with the
labels alone and with the judge.
Prints the tables; exits with 1 where a bar is missed. Every interval is that of
`stages.statistics.prediction_powered` or `stages.statistics.exact`, which `tuneline gate` calls.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.statistics.cluster import clustered_mean
from stages.statistics.exact import paired_interval
from stages.statistics.prediction_powered import prediction_powered_mean

Array = npt.NDArray[np.float64]
ITEMS = 1000
LABELS = (50, 100, 200, 400)
PROMISED_WITH = 200
"""Labels with which the risk is promised."""
ALPHA = 0.05
MARGIN, GRADES_MARGIN = 0.05, 0.2
EFFECT = 0.15
"""True difference of shares whose detection is counted, against the margin."""
CHAT = 4
"""Items of a chat."""


class Judge(NamedTuple):
    """How often it calls an answer good: good and bad ones of the candidate, then of the other model."""

    name: str
    good: float
    bad: float
    other_good: float
    other_bad: float


JUDGES = (
    Judge("careful", 0.95, 0.05, 0.95, 0.05),
    Judge("coarse", 0.80, 0.25, 0.80, 0.25),
    Judge("for the candidate", 0.97, 0.35, 0.90, 0.15),
    Judge("against it", 0.85, 0.10, 0.95, 0.30),
    Judge("any answer of the candidate is good", 1.0, 1.0, 0.90, 0.15),
    Judge("rarely wrong, for the candidate", 1.0, 0.06, 1.0, 0.0),
    Judge("a coin", 0.5, 0.5, 0.5, 0.5),
)
KINDS = ("shares", "chats", "pairs", "grades")


class Draw(NamedTuple):
    """Differences of each item by the judge and by people, the chats, and the width of the scale."""

    judged: Array
    said: Array
    clusters: Sequence[int]
    span: float


def draw(rng: np.random.Generator, kind: str, judge: Judge, difference: float, n: int = ITEMS) -> Draw:
    """One pair of evaluations of `n` items whose true difference is `difference`."""
    if kind == "pairs":
        return _pairs(rng, judge, difference, n)
    if kind == "grades":
        return _grades(rng, judge, difference, n)
    flips, right = 0.3, 0.6
    gained, lost = (flips + difference) / 2, (flips - difference) / 2
    outcomes = rng.choice(4, size=n, p=[right - lost, gained, lost, 1 - right - gained])
    ours, theirs = outcomes < 2, (outcomes == 0) | (outcomes == 2)
    judged = (rng.random(n) < np.where(ours, judge.good, judge.bad)).astype(float)
    judged -= rng.random(n) < np.where(theirs, judge.other_good, judge.other_bad)
    said = ours.astype(float) - theirs
    if kind == "shares":
        return Draw(judged, said, range(n), 1.0)
    # half of a chat's items are as its first one is, to people and to the judge
    alike = np.where(rng.random(n) < 0.5, np.arange(n) // CHAT * CHAT, np.arange(n))
    return Draw(judged[alike], said[alike], [i // CHAT for i in range(n)], 1.0)


def _pairs(rng: np.random.Generator, judge: Judge, difference: float, n: int) -> Draw:
    """Won, tied or lost against the other model's own answer: 0.5, 0 or -0.5 beside a tie."""
    ties = 0.3
    won = (1 - ties + 2 * difference) / 2
    said = rng.choice([0.5, 0.0, -0.5], size=n, p=[won, ties, 1 - ties - won])
    lenient = (said <= 0) & (rng.random(n) < max(0.0, judge.bad - judge.other_bad))
    guessed = rng.random(n) < 1 - judge.other_good
    judged = np.where(guessed, rng.choice([0.5, 0.0, -0.5], size=n), said)
    return Draw(np.where(lenient, 0.5, judged), said, range(n), 1.0)


def _grades(rng: np.random.Generator, judge: Judge, difference: float, n: int) -> Draw:
    """Differences of grades from 1 to 5."""
    chances = [0.05, 0.15 - difference / 2, 0.6, 0.15 + difference / 2, 0.05]
    said = rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0], size=n, p=chances)
    kinder = rng.random(n) < max(0.0, judge.bad - judge.other_bad)
    noise = rng.choice([-1.0, 0.0, 1.0], size=n) * (rng.random(n) < 1 - judge.other_good)
    return Draw(said + kinder + noise, said, range(n), 4.0)


def some(rng: np.random.Generator, said: Array, labels: int) -> list[float | None]:
    """People's differences of `labels` items drawn at random, None of the others."""
    known: list[float | None] = [None] * len(said)
    for item in rng.choice(len(said), size=labels, replace=False):
        known[item] = float(said[item])
    return known


def share_of_passes(
    rng: np.random.Generator, trials: int, kind: str, judge: Judge, labels: int, difference: float,
    threshold: float, alone: bool = False,
) -> float:  # fmt: skip
    """Of `trials` gates with so many labels; `alone`: by the labels, without the judge."""
    passed = 0
    for _ in range(trials):
        found = draw(rng, kind, judge, difference)
        judged = np.zeros(len(found.said)) if alone else found.judged
        known = some(rng, found.said, labels)
        mean = prediction_powered_mean(judged.tolist(), known, found.clusters, ALPHA, found.span)
        passed += mean.low > threshold
    return passed / trials


@cache
def _low(gained: int, lost: int, n: int, threshold: float) -> float:
    return paired_interval(gained, lost, n, threshold, ALPHA).low


def share_believed(
    rng: np.random.Generator, trials: int, kind: str, judge: Judge, difference: float, threshold: float
) -> float:
    """Of `trials` gates that take the judge's scores for the truth."""
    passed = 0
    for _ in range(trials):
        found = draw(rng, kind, judge, difference)
        if kind == "shares":
            gained, lost = int((found.judged > 0).sum()), int((found.judged < 0).sum())
            passed += _low(gained, lost, len(found.judged), threshold) > threshold
        else:
            passed += clustered_mean(found.judged.tolist(), found.clusters, ALPHA).low > threshold
    return passed / trials


def false_passes(rng: np.random.Generator, trials: int) -> list[dict[str, Any]]:
    """Each kind of score, role and judge at the margin: by labels, and with the judge believed."""
    cells = []
    for kind in KINDS:
        margin = GRADES_MARGIN if kind == "grades" else MARGIN
        for threshold in (margin, -margin):
            for judge in JUDGES:
                cell: dict[str, Any] = {
                    "kind": kind, "role": "improve" if threshold > 0 else "keep", "judge": judge.name,
                    "believed": share_believed(
                        rng, max(200, trials // 10), kind, judge, threshold, threshold
                    ),
                }  # fmt: skip
                cell["labels"] = {
                    labels: share_of_passes(rng, trials, kind, judge, labels, threshold, threshold)
                    for labels in (LABELS if kind == "shares" else (PROMISED_WITH,))
                }
                cells.append(cell)
    return cells


def powers(rng: np.random.Generator, trials: int) -> list[dict[str, Any]]:
    """How often a real difference is shown, with and without each judge."""
    return [
        {"judge": judge.name, "labels": labels,
         "alone": share_of_passes(rng, trials, "shares", judge, labels, EFFECT, MARGIN, alone=True),
         "with_judge": share_of_passes(rng, trials, "shares", judge, labels, EFFECT, MARGIN)}
        for judge in JUDGES[:3]
        for labels in LABELS
    ]  # fmt: skip


def report(trials: int, seed: int = 16) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    cells, power = false_passes(rng, trials), powers(rng, max(200, trials // 4))
    noise = 3 * math.sqrt(ALPHA * (1 - ALPHA) / trials)
    wrong = [
        f"{cell['kind']}, {cell['role']}, {cell['judge']}: {cell['labels'][PROMISED_WITH]:.4f}"
        for cell in cells
        if cell["labels"][PROMISED_WITH] > ALPHA + noise
    ]
    doubt = 3 * math.sqrt(0.5 / max(200, trials // 4))
    wrong += [
        f"power {row}" for row in power
        if row["judge"] == "careful" and row["with_judge"] < row["alone"] - doubt
    ]  # fmt: skip
    return {"trials": trials, "items": ITEMS, "cells": cells, "power": power, "wrong": wrong}


def tables(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"Share of wrong passes at the margin, {found['items']:,} items, {found['trials']:,} gates per cell",
        "",
        "| scores, role | judge | believed | " + " | ".join(f"{n} labels" for n in LABELS) + " |",
        "|---|---|---|" + "---|" * len(LABELS),
    ]
    for cell in found["cells"]:
        shares = [cell["labels"].get(labels) for labels in LABELS]
        shown = " | ".join("–" if share is None else f"{100 * share:.1f} %" for share in shares)
        lines.append(
            f"| {cell['kind']}, {cell['role']} | {cell['judge']} | {100 * cell['believed']:.1f} % | {shown} |"
        )
    lines += ["", "| judge | labels | shown by labels alone | with the judge |", "|---|---|---|---|"]
    for row in found["power"]:
        lines.append(
            f"| {row['judge']} | {row['labels']} | {100 * row['alone']:.0f} % | "
            f"{100 * row['with_judge']:.0f} % |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    found = report(given.trials)
    print(json.dumps(found, indent=1) if given.json else tables(found))
    print(f"{time.monotonic() - begun:.0f} s; missed: {found['wrong'] or 'none'}", file=sys.stderr)
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
