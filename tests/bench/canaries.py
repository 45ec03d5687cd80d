"""How often a canary is judged wrongly, and how soon: `python -m tests.bench.canaries [--canaries 10000]`.

Simulated canaries, each a stream of requests of which a share goes to the candidate. Three ways to judge
the same streams: the sequential test that Tuneline uses; a test of fixed size, once, after as many requests
as it needs (a normal test of non-inferiority, and of harm); and ten minutes, in none of which the candidate's
errors are more than twice the live rate. How often each promotes, and after how many of the candidate's
requests.

Then five guardrails at once, sequentially: errors, cut-off and slow answers, answers that are not JSON, and
dislikes, of a tenth of the answers. The candidate is as good, or worse by a margin in one of them.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from stages.statistics.canary import Guardrail, harmed, safe
from stages.statistics.sequential import Array, Block
from tests.bench.results import Report

ALPHA = 0.05
MARGIN = 0.02
LIVE = 0.01
PER_LOOK = 50
"""Requests to the candidate between two looks; the live artifact gets `SHARE` of them all."""
SHARE = 0.1
LOOKS = 100
LOOKS_IN_TEN_MINUTES = 10
"""50 requests a minute to the candidate."""
CANDIDATES = {
    "5 points worse": 0.06,
    "20 points worse": 0.21,
    "worse by the margin": 0.03,
    "half a margin worse": 0.02,
    "as good": 0.01,
    "better": 0.005,
}


@dataclass
class Judged:
    """For each canary: 1 promoted, -1 stopped for harm, 0 given up; and after how many of its requests."""

    verdicts: Array
    requests: Array

    def row(self) -> dict[str, float | None]:
        harm = self.requests[self.verdicts < 0]
        promoted = self.requests[self.verdicts > 0]
        return {
            "promoted": float((self.verdicts > 0).mean()),
            "stopped": float((self.verdicts < 0).mean()),
            "given_up": float((self.verdicts == 0).mean()),
            "stopped_after_median": float(np.median(harm)) if len(harm) else None,
            "stopped_after_p90": float(np.quantile(harm, 0.9)) if len(harm) else None,
            "promoted_after_median": float(np.median(promoted)) if len(promoted) else None,
        }


def streams(
    rate: float, canaries: int, seed: int, live: float = LIVE, per_look: int = PER_LOOK
) -> list[Block]:
    """`LOOKS` blocks of `canaries` runs, with one guardrail, of so many answers of the candidate each."""
    draw = np.random.default_rng(seed)
    rest = round(per_look * (1 - SHARE) / SHARE)
    sizes = np.full(canaries, float(rest)), np.full(canaries, float(per_look))
    blocks = []
    for _ in range(LOOKS):
        bad = (draw.binomial(rest, live, canaries), draw.binomial(per_look, rate, canaries))
        blocks.append(Block(sizes[0], bad[0].astype(float), sizes[1], bad[1].astype(float)))
    return blocks


def sequential(blocks: list[Block]) -> Judged:
    """Looks at each block; a canary that is decided is not looked at again."""
    return together([(MARGIN, blocks)])


def together(streams_of: list[tuple[float, list[Block]]]) -> Judged:
    """The same with several guardrails, each with its margin and its blocks."""
    canaries = len(streams_of[0][1][0].live)
    guardrails = [Guardrail(margin, canaries) for margin, _ in streams_of]
    judged = Judged(np.zeros(canaries), np.full(canaries, float(PER_LOOK * LOOKS)))
    open_ = np.arange(canaries)
    for look, every in enumerate(zip(*(blocks for _, blocks in streams_of), strict=True), 1):
        for guardrail, counts in zip(guardrails, every, strict=True):
            guardrail.add(Block(*(column[open_] for column in counts)))
        harm, good = harmed(guardrails, ALPHA), safe(guardrails, ALPHA)
        decided = harm | good
        judged.verdicts[open_[decided]] = np.where(harm, -1.0, 1.0)[decided]
        judged.requests[open_[decided]] = look * PER_LOOK
        open_ = open_[~decided]
        for guardrail in guardrails:
            guardrail.keep(~decided)
        if not len(open_):
            break
    return judged


def fixed_looks() -> int:
    """Looks that a normal test needs to show, with power 0.8, that an equal canary is within the margin."""
    z = NormalDist().inv_cdf(1 - ALPHA) + NormalDist().inv_cdf(0.8)
    variance = LIVE * (1 - LIVE) * (1 + SHARE / (1 - SHARE))
    return math.ceil(z * z * variance / MARGIN**2 / PER_LOOK)


def fixed_horizon(blocks: list[Block]) -> Judged:
    """One look, at the planned size: Farrington & Manning's question with a plain normal test."""
    looks = fixed_looks()
    live, live_bad, tried, tried_bad = (
        np.sum(column, axis=0) for column in zip(*blocks[:looks], strict=True)
    )
    low, high = live_bad / live, tried_bad / tried
    spread = np.sqrt(np.maximum(low * (1 - low) / live + high * (1 - high) / tried, 1e-12))
    z = NormalDist().inv_cdf(1 - ALPHA)
    good, harm = (high - low - MARGIN) / spread < -z, (high - low) / spread > z
    verdicts = np.where(good, 1.0, np.where(harm, -1.0, 0.0))
    return Judged(verdicts, np.full(len(verdicts), float(looks * PER_LOOK)))


def ten_minutes(blocks: list[Block]) -> Judged:
    """Stopped in the first minute with more than twice the live rate of errors (and two at least)."""
    canaries = len(blocks[0].live)
    judged = Judged(np.ones(canaries), np.full(canaries, float(PER_LOOK * LOOKS_IN_TEN_MINUTES)))
    for look, counts in enumerate(blocks[:LOOKS_IN_TEN_MINUTES], 1):
        limit = np.maximum(2 * counts.live_bad / counts.live * counts.canary, 1.0)
        stopped = (counts.canary_bad > limit) & (judged.verdicts > 0)
        judged.verdicts[stopped], judged.requests[stopped] = -1.0, look * PER_LOOK
    return judged


WAYS = {"sequential": sequential, "fixed size": fixed_horizon, "ten minutes": ten_minutes}


GUARDRAILS = {  # margin, live rate, answers of the candidate between two looks
    "errors": (MARGIN, LIVE, PER_LOOK),
    "cut off": (0.05, 0.02, PER_LOOK),
    "slow": (0.05, 0.03, PER_LOOK),
    "not JSON": (MARGIN, LIVE, PER_LOOK),
    "disliked": (0.1, 0.1, PER_LOOK // 10),
}


def five(canaries: int, worse: str | None, seed: int) -> Judged:
    """All five guardrails; the candidate is as good but for `worse`, by exactly that one's margin."""
    return together(
        [
            (margin, streams(live + margin * (name == worse), canaries, seed + at, live, per_look))
            for at, (name, (margin, live, per_look)) in enumerate(GUARDRAILS.items())
        ]
    )


def measure(canaries: int) -> list[dict[str, Any]]:
    """One row for each kind of candidate and way of judging."""
    rows = []
    for number, (name, rate) in enumerate(CANDIDATES.items()):
        blocks = streams(rate, canaries, number)
        rows += [
            {"candidate": name, "rate": rate, "way": way, **judge(blocks).row()}
            for way, judge in WAYS.items()
        ]
    for number, worse in enumerate((None, *GUARDRAILS)):
        name = "as good" if worse is None else f"worse: {worse}"
        rows.append({"candidate": name, "way": "five", **five(canaries, worse, 100 + 10 * number).row()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canaries", type=int, default=10_000)
    canaries = parser.parse_args().canaries
    title = (
        f"{canaries:,} canaries each; live rate {100 * LIVE:g} %, margin {100 * MARGIN:g} %, "
        f"α {100 * ALPHA:g} %, {100 * SHARE:g} % of requests to the candidate, at most {LOOKS * PER_LOOK:,}, "
        f"looked at every {PER_LOOK}"
    )
    with Report("canaries", "numpy", "scipy") as report:
        for row in measure(canaries):
            shares = {f"{key} (%)": 100 * row[key] for key in ("promoted", "stopped")}
            after = {
                "stopped after (requests)": row["stopped_after_median"],
                "90 % of them after": row["stopped_after_p90"],
                "promoted after": row["promoted_after_median"],
            }
            words = {"candidate": row["candidate"], "way": row["way"]}
            report.row(title, {**words, **shares, "given up (%)": 100 * row["given_up"], **after})


if __name__ == "__main__":
    main()
