"""Intervals for shares and for paired differences of shares. Pure Python: they are needed everywhere."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    low: float
    high: float


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Two-sided score interval of a share (Wilson 1927, JASA 22:209, the interval of his equation 7).

    `successes` of `n` items; ValueError unless 0 ≤ successes ≤ n and n > 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"a share needs 0 ≤ successes ≤ n and n > 0, found {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = (centre - spread) / scale if successes else 0.0
    high = (centre + spread) / scale if successes < n else 1.0
    return Interval(low, high)


def tango(gained: int, lost: int, n: int, alpha: float = 0.05) -> Interval:
    """Score interval of the difference of two paired shares (Tango 1998, Statistics in Medicine 17:891).

    Of `n` pairs, `gained` are right only for the first and `lost` only for the second model; the
    difference is first minus second. Each end is a one-sided (1 - alpha) bound, so the two together are
    a two-sided (1 - 2·alpha) interval. ValueError where the counts are impossible.
    """
    if n <= 0 or min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"impossible pairs: {gained} gained and {lost} lost of {n}")
    z = NormalDist().inv_cdf(1 - alpha)
    observed = (gained - lost) / n
    low = crossing(gained, lost, n, z, -1.0, observed)
    high = crossing(gained, lost, n, -z, observed, 1.0)
    return Interval(low, high)


def tango_score(gained: float, lost: float, n: float, difference: float) -> float:
    """Tango's statistic for "the true difference is `difference`": standard normal under it.

    (b - c - nΔ) / sqrt(n (2q + Δ(1 - Δ))), where q is the restricted maximum-likelihood estimate of the
    probability of a lost pair, the larger root of 2n·q² + (-b - c + (2n - b + c)Δ)·q - cΔ(1 - Δ) = 0.
    """
    distance = gained - lost - n * difference
    linear = -gained - lost + (2 * n - gained + lost) * difference
    constant = -lost * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    # The textbook root loses all its digits when `linear` is positive and the constant term small.
    lost_share = -2 * constant / (linear + root) if linear > 0 else (root - linear) / (4 * n)
    variance = n * (2 * lost_share + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def crossing(gained: float, lost: float, n: float, z: float, left: float, right: float) -> float:
    """Where the score, which falls as the difference rises, crosses `z` between `left` and `right`."""
    for _ in range(80):
        middle = (left + right) / 2
        if tango_score(gained, lost, n, middle) > z:
            left = middle
        else:
            right = middle
    return (left + right) / 2


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p value of "gains and losses are as likely" (McNemar 1947; the mid-p form of Fagerland,
    Lydersen & Laake 2013, BMC Medical Research Methodology 13:91): half of the observed table's probability
    counts. 1 where no pair is discordant."""
    discordant, fewer = gained + lost, min(gained, lost)
    chances = [math.comb(discordant, k) / 2**discordant for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(chances) - chances[-1])
