"""Two streams of yes or no, compared again and again while they grow, without raising the risk of an error.

An e-process for "the second stream's rate exceeds the first's by at most `bound`": it begins at 1, and while
the claim is true its expectation never grows, so it ever reaches 1/α with a probability of at most α (Ville
1939), whenever and however often one looks and for whatever reason one stops. Requests come in blocks. A
block's factor is its likelihood under an alternative, chosen from what came before, over its likelihood at
the nearest point (in Kullback-Leibler divergence) at which the claim is true: an e-variable for any convex
claim (Turner, Ly & Grünwald 2024, Journal of Statistical Planning and Inference 230:106116; for a difference
of rates, Turner & Grünwald 2023, Statistics & Probability Letters 198:109835). The claim has to hold in each
block; the rates themselves may change from block to block. Several alternatives are bet on, with a share of
the stake each (Robbins 1970, Annals of Mathematical Statistics 41:1397).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEARN = 50
"""Items of the reference stream from which on anything is bet: its rate is not known before."""
STEPS = 40
"""Bisections of a projection; what they leave is below the rounding of the likelihoods."""
TINY = 1e-6
"""Rates are kept so far from 0 and 1."""
_PRIOR = 20.0
"""As many items does the reference stream's rate weigh in the guess of the other's."""

Array = NDArray[Any]


class Block(NamedTuple):
    """What came since the last look: items of each stream, and how many were bad; each of shape [runs]."""

    live: Array
    live_bad: Array
    canary: Array
    canary_bad: Array


def block(live: int, live_bad: int, canary: int, canary_bad: int, runs: int = 1) -> Block:
    """The same block for all runs. ValueError where more are bad than there are."""
    if not (0 <= live_bad <= live and 0 <= canary_bad <= canary):
        raise ValueError(f"impossible block: {live_bad} of {live} and {canary_bad} of {canary}")
    return Block(*(np.full(runs, float(count)) for count in (live, live_bad, canary, canary_bad)))


@dataclass
class Difference:
    """E-processes about the canary's rate minus the live rate, one for each run, all fed at once.

    `bound` has shape [runs]. With `worse` the claim tested is "at most `bound`", and evidence grows where the
    canary is worse than that; else "at least `bound`", and it grows where the canary is better than that.
    `steps` are the distances from the bound at which alternatives are put.
    """

    bound: Array
    worse: bool
    steps: Sequence[float]
    _log: Array = field(init=False)
    _seen: Array = field(init=False)

    def __post_init__(self) -> None:
        self._log = np.zeros((len(self.bound), len(self.steps) + 1))
        self._seen = np.zeros((4, len(self.bound)))

    def add(self, counts: Block) -> None:
        """Take in one block; its alternatives are chosen from the blocks before it."""
        live, live_bad, canary, canary_bad = (column[:, None] for column in counts)
        seen, seen_bad, tried, tried_bad = (column[:, None] for column in self._seen)
        rate = (seen_bad + 0.5) / (seen + 1)
        guess = (tried_bad + _PRIOR * rate) / (tried + _PRIOR)
        sign, bound = (1.0, self.bound[:, None]) if self.worse else (-1.0, self.bound[:, None])
        others = rate + bound + sign * np.asarray(self.steps)[None, :]
        alternatives = _inside(np.concatenate([guess, others], axis=1))
        rates = np.broadcast_to(_inside(rate), alternatives.shape)
        betting = sign * (alternatives - rates - bound) > TINY
        at_live, at_canary = _nearest(rates, alternatives, bound, live, canary)
        gain = _log_likelihood_ratio(live, live_bad, rates, at_live)
        gain += _log_likelihood_ratio(canary, canary_bad, alternatives, at_canary)
        self._log += np.where(betting & (seen >= LEARN), gain, 0.0)
        self._seen += np.stack(counts)

    @property
    def log_e(self) -> Array:
        """Natural logarithm of each run's e-value; shape [runs]."""
        highest = self._log.max(axis=1)
        mean: Array = np.exp(self._log - highest[:, None]).mean(axis=1)
        return highest + np.log(mean)

    def keep(self, runs: Any) -> None:
        """Go on with these runs only (a mask or indices)."""
        self.bound, self._log, self._seen = self.bound[runs], self._log[runs], self._seen[:, runs]


def _nearest(live: Array, canary: Array, bound: Array, items: Array, tried: Array) -> tuple[Array, Array]:
    """The pair of rates, `bound` apart, that is nearest to (live, canary) for a block of these sizes.

    The divergence is convex along the line, so the root of its derivative is found by bisection; it lies
    between the two points at which one of the two rates is the alternative's own.
    """
    least, most = np.maximum(0.0, -bound), np.minimum(1.0, 1.0 - bound)
    left = np.clip(np.minimum(live, canary - bound), least, most)
    right = np.clip(np.maximum(live, canary - bound), least, most)
    for _ in range(STEPS):
        at = (left + right) / 2
        moved = at + bound
        slope = items * (at - live) * moved * (1 - moved) + tried * (moved - canary) * at * (1 - at)
        left, right = np.where(slope < 0, at, left), np.where(slope < 0, right, at)
    at = (left + right) / 2
    return at, at + bound


def _log_likelihood_ratio(items: Array, bad: Array, above: Array, below: Array) -> Array:
    below = np.clip(below, 1e-12, 1 - 1e-12)
    ratio: Array = bad * np.log(above / below) + (items - bad) * np.log1p((below - above) / (1 - below))
    return ratio


def _inside(rate: Array) -> Array:
    inside: Array = np.clip(rate, TINY, 1 - TINY)
    return inside
