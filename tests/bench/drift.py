"""Days without a change, and with one: `python -m tests.bench.drift [--deployments 200] [--days 50]`.

Each deployment has its own reference rows and gets new ones every day, from the same distribution or from a
changed one. Beside the e-values of `tuneline drift`, each day's rows are tested against the reference by
Kolmogorov and Smirnov, measure by measure: at 5 % each, and at 5 % over all measures of that day
(Bonferroni). How many deployments ever raise an alarm, and how many rows come before it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from flows.drift.comparison import DriftComparison
from tests.bench.results import Report

REFERENCE = 400
ROWS_A_DAY = 40
TOPICS = 5


Firsts = dict[str, int | None]
"""Way of judging → the row at which it first says drift."""


@dataclass(frozen=True)
class Source:
    """Texts of words from a common vocabulary and one of a topic, both by Zipf's law."""

    length: float = 1.0
    new_words: float = 0.0
    first_topic: float = 1 / TOPICS

    def text(self, draw: random.Random) -> str:
        rest = (1 - self.first_topic) / (TOPICS - 1)
        topic = draw.choices(range(TOPICS), [self.first_topic, *[rest] * (TOPICS - 1)])[0]
        count = max(1, round(draw.lognormvariate(2.3, 0.5) * self.length))
        return " ".join(self._word(draw, topic) for _ in range(count))

    def _word(self, draw: random.Random, topic: int) -> str:
        if draw.random() < self.new_words:
            return f"new{min(int(draw.paretovariate(0.8)), 5000)}"
        rank = min(int(draw.paretovariate(0.8)), 2000)
        return f"w{rank}" if draw.random() < 0.7 else f"t{topic}x{rank}"


CHANGES = {
    "none": Source(),
    "inputs 30 % longer": Source(length=1.3),
    "5 % of words never seen": Source(new_words=0.05),
    "a topic from 20 to 40 %": Source(first_topic=0.4),
}


def days(seed: int, after: Source, count: int) -> Iterator[tuple[list[str], list[str]]]:
    """First (reference, nothing), then the rows of each day."""
    draw = random.Random(seed)
    yield [Source().text(draw) for _ in range(REFERENCE)], []
    for _ in range(count):
        yield [], [after.text(draw) for _ in range(ROWS_A_DAY)]


def judge(seed: int, after: Source, count: int) -> Firsts:
    """By the measures of words, and by daily tests of them."""
    stream = days(seed, after, count)
    reference, _ = next(stream)
    comparison = DriftComparison(reference)
    first: Firsts = {"e-values": None, "KS daily, each": None, "KS daily, all": None}
    for day, (_, texts) in enumerate(stream, 1):
        comparison.add(texts)
        values = np.array([comparison.values(text) for text in texts])
        lowest = min(
            ks_2samp(comparison.reference[:, number], values[:, number], method="asymp").pvalue
            for number in range(values.shape[1])
        )
        for way, limit in (("KS daily, each", 0.05), ("KS daily, all", 0.05 / values.shape[1])):
            if first[way] is None and lowest < limit:
                first[way] = day * ROWS_A_DAY
    first["e-values"] = comparison.state.first_row
    return first


def measure(change: str, deployments: int, judged: Callable[[int], Firsts]) -> list[dict[str, Any]]:
    """One row for each way of judging; `judged`: seed of a deployment -> way -> row of the first alarm."""
    rows = []
    firsts = [judged(seed) for seed in range(deployments)]
    for way in firsts[0]:
        found = [first[way] for first in firsts if first[way] is not None]
        share, middle = len(found) / deployments, median(found) if found else None
        rows.append({"change": change, "way": way, "alarmed": share, "median_rows": middle})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deployments", type=int, default=200)
    parser.add_argument("--days", type=int, default=50)
    parser.add_argument("--changed", type=int, default=50, help="deployments of each kind of change")
    kinds = parser.add_mutually_exclusive_group()
    text = "with measures of hidden states, and without, on sentences of people"
    kinds.add_argument("--hidden-states", action="store_true", help=text)
    text = "beside Evidently, where that is installed"
    kinds.add_argument("--evidently", action="store_true", help=text)
    arguments = parser.parse_args()
    name = next((kind for kind in ("hidden_states", "evidently") if getattr(arguments, kind)), "")
    changes, judged = _kind(arguments)
    days_of = f"{REFERENCE} reference rows, {ROWS_A_DAY} new ones a day, {arguments.days} days, daily looks"
    with Report(f"drift_{name}" if name else "drift", "numpy", "scipy") as report:
        for change in changes:
            number = arguments.deployments if change == "none" else arguments.changed
            for row in measure(change, number, partial(judged, change)):
                report.row(
                    days_of,
                    {
                        "change": change,
                        "way": row["way"],
                        "ever alarmed (%)": 100 * row["alarmed"],
                        "of": number,
                        "rows until then (median)": row["median_rows"],
                    },
                )


def _kind(arguments: argparse.Namespace) -> tuple[tuple[str, ...], Callable[[str, int], Firsts]]:
    """The changes, and what judges a deployment of one."""
    count = arguments.days
    if arguments.hidden_states:
        from tests.bench import drift_hidden

        judged = partial(drift_hidden.judge, drift_hidden.pool())
        return drift_hidden.CHANGES, lambda change, seed: judged(seed, change, count)
    if arguments.evidently:
        from tests.bench import drift_evidently

        drift_evidently.require()
        return tuple(CHANGES), lambda change, seed: drift_evidently.judge(change, seed, count)
    return tuple(CHANGES), lambda change, seed: judge(seed, CHANGES[change], count)


if __name__ == "__main__":
    main()
