"""Simulated gates: `python -m tests.reliability.gates --trials 10000`.

At the margin, a gate that promises 5 % must pass wrongly in at most 6 % of cases; with the number of items
that a plan asks for, it must pass as often as planned; and pairing must need fewer items than not pairing.
Prints the tables; exits with 1 where a bar is missed. Every verdict is that of
`stages.statistics.exact.paired_interval`, which is what `tuneline gate` calls.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

from stages.statistics.exact import paired_interval
from stages.statistics.intervals import tango
from stages.statistics.power import plan

SIZES = (100, 200, 500, 1000, 2000, 5000)
FLIPS = (0.01, 0.02, 0.04, 0.08, 0.15)
ALPHA, HIGHEST, POWER_WITHIN, FEWER = 0.05, 0.06, 0.03, 0.30


@cache
def passes(gained: int, lost: int, n: int, threshold: float, guarded: bool = True) -> bool:
    interval = paired_interval(gained, lost, n, threshold) if guarded else tango(gained, lost, n)
    return interval.low > threshold


def simulate(
    rng: np.random.Generator, trials: int, n: int, flips: float, difference: float, threshold: float,
    guarded: bool = True,
) -> float:  # fmt: skip
    """Share of `trials` gates on `n` items that pass, `difference` being the true one."""
    won, lost = (flips + difference) / 2, (flips - difference) / 2
    tables = rng.multinomial(n, [won, max(lost, 0.0), 1 - flips], size=trials)
    found, counts = np.unique(tables[:, :2], axis=0, return_counts=True)
    passed = sum(
        int(count)
        for (gained, losses), count in zip(found, counts, strict=True)
        if passes(int(gained), int(losses), n, threshold, guarded)
    )
    return passed / trials


def false_passes(rng: np.random.Generator, trials: int) -> list[dict[str, Any]]:
    """Each cell at the margin, for keep and improve; the margin is a share of the flips, or 2 points."""
    cells = []
    for n in SIZES:
        for flips in FLIPS:
            for margin in sorted({0.25 * flips, 0.5 * flips, flips, *([0.02] if flips >= 0.02 else [])}):
                for threshold in (-margin, margin):
                    rate = simulate(rng, trials, n, flips, threshold, threshold)
                    plain = simulate(rng, trials, n, flips, threshold, threshold, guarded=False)
                    cells.append(
                        {"role": "keep" if threshold < 0 else "improve", "n": n, "flips": flips,
                         "margin": margin, "false_pass": rate, "tango_alone": plain}
                    )  # fmt: skip
            passes.cache_clear()
    return cells


def planned_power(rng: np.random.Generator, trials: int) -> list[dict[str, Any]]:
    """What a plan promises against what happens, with the number of items that it asks for."""
    rows = []
    for flips in FLIPS:
        for difference, threshold in ((0.0, -0.02), (0.0, -0.05), (0.04, 0.02), (0.1, 0.05)):
            if flips < abs(difference) or (found := plan(flips, difference, threshold)) is None:
                continue
            n, promised = found
            reached = simulate(rng, trials, n, flips, difference, threshold)
            rows.append(
                {"flips": flips, "difference": difference, "threshold": threshold, "items": n,
                 "promised": promised, "reached": reached}
            )  # fmt: skip
    return rows


def unpaired_items(share: float, difference: float, threshold: float) -> int:
    """Items per model with which two independent shares are told from `threshold`: alpha 0.05, power 0.8."""
    z = NormalDist().inv_cdf(1 - ALPHA) + NormalDist().inv_cdf(0.8)
    other = share + difference
    variance = share * (1 - share) + other * (1 - other)
    return math.ceil(z * z * variance / (difference - threshold) ** 2)


def pairing(rng: np.random.Generator, trials: int, share: float = 0.8) -> list[dict[str, Any]]:
    """Items for the same decision: a margin of 2 points, equally good models that answer `share` rightly.

    Also how often each way passes on the very same logs, with the paired number of items.
    """
    rows = []
    for flips in FLIPS:
        found = plan(flips, 0.0, -0.02)
        assert found is not None
        n, alone = found[0], unpaired_items(share, 0.0, -0.02)
        both = share - flips / 2
        tables = rng.multinomial(n, [both, flips / 2, flips / 2, 1 - both - flips], size=min(trials, 2000))
        paired = sum(passes(int(won), int(lost), n, -0.02) for _, won, lost, _ in tables)
        unpaired = sum(_two_shares(int(b + w), int(b + lo), n) > -0.02 for b, w, lo, _ in tables)
        rows.append(
            {"flips": flips, "paired": n, "unpaired": alone, "fewer": 1 - n / alone,
             "paired_passes": paired / len(tables), "unpaired_passes": unpaired / len(tables)}
        )  # fmt: skip
    return rows


def _two_shares(ours: int, theirs: int, n: int) -> float:
    """The lower bound of the difference of two independent shares (Wald, as lm-eval's comparator)."""
    p, q = ours / n, theirs / n
    return p - q - NormalDist().inv_cdf(1 - ALPHA) * math.sqrt((p * (1 - p) + q * (1 - q)) / n)


def report(trials: int, seed: int = 20) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    cells, power, pairs = false_passes(rng, trials), planned_power(rng, trials), pairing(rng, trials)
    noise = 3 * math.sqrt(ALPHA * (1 - ALPHA) / trials) if trials < 5000 else 0.0
    wrong = [
        f"{c['role']} n={c['n']} flips={c['flips']} margin={c['margin']:.4f}: {c['false_pass']:.4f}"
        for c in cells
        if c["false_pass"] > HIGHEST + noise
    ]
    wrong += [f"power {r}" for r in power if abs(r["promised"] - r["reached"]) > POWER_WITHIN + noise]
    wrong += [f"pairing {r}" for r in pairs if r["fewer"] < FEWER]
    return {"trials": trials, "cells": cells, "power": power, "pairing": pairs, "wrong": wrong}


def tables(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"Highest share of false passes over the margins, {found['trials']:,} gates per cell (Tango alone)",
        "",
    ]
    lines += ["| | " + " | ".join(f"flips {f:.0%}" for f in FLIPS) + " |", "|---|" + "---|" * len(FLIPS)]
    for role in ("keep", "improve"):
        for n in SIZES:
            cells = []
            for flips in FLIPS:
                here = [c for c in found["cells"] if (c["role"], c["n"], c["flips"]) == (role, n, flips)]
                guarded, alone = (max(c[key] for c in here) for key in ("false_pass", "tango_alone"))
                cells.append(f"{100 * guarded:.1f} % ({100 * alone:.1f} %)")
            lines.append(f"| {role}, n = {n:,} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| flips | true difference | margin at | items planned | promised | reached |",
        "|---|---|---|---|---|---|",
    ]
    for r in found["power"]:
        lines.append(
            f"| {r['flips']:.0%} | {100 * r['difference']:+.0f} | {100 * r['threshold']:+.0f} | "
            f"{r['items']:,} | {100 * r['promised']:.1f} % | {100 * r['reached']:.1f} % |"
        )
    lines += ["", "| flips | items, paired | items, unpaired | fewer | passes, paired | passes, unpaired |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for r in found["pairing"]:
        lines.append(
            f"| {r['flips']:.0%} | {r['paired']:,} | {r['unpaired']:,} | {100 * r['fewer']:.0f} % | "
            f"{100 * r['paired_passes']:.0f} % | {100 * r['unpaired_passes']:.0f} % |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    found = report(given.trials)
    print(json.dumps(found, indent=1) if given.json else tables(found))
    print(f"{time.monotonic() - begun:.0f} s; missed: {found['wrong'] or 'none'}", file=sys.stderr)
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
