"""Tango's test where few pairs are discordant: critical values that keep the promised risk exactly.

The score statistic is normal only roughly while few pairs are discordant: with 3 of 300 expected, a gate at
5 % passes wrongly in up to 9 % of cases. There the critical value is raised until the probability of passing,
summed over all possible tables, is at most alpha whatever the share of discordant pairs is: an unconditional
exact test ordered by the score (Chan 1998, Statistics in Medicine 17:1403; for pairs, Hsueh, Liu & Chen 2001,
Biometrics 57:478), over a confidence set of that share only (Berger & Boos 1994, JASA 89:1012).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from stages.statistics.cluster import student_quantile
from stages.statistics.intervals import Interval, crossing

ENOUGH = 100
"""Discordant pairs from which the normal approximation keeps the risk to within half a point."""
_SPENT = 0.02  # share of alpha for the discordant share lying outside its confidence set
_SHARES = 24  # discordant shares at which the risk is summed
_TAIL = 1e-10
_ROUNDING = 1e-9


@lru_cache(maxsize=4096)
def critical_value(discordant: int, n: int, threshold: float, alpha: float) -> float:
    """What the score for "the difference is `threshold`" has to exceed, with `discordant` of `n` pairs.

    The normal quantile, or more where that would let a true difference of `threshold` pass with more than
    `alpha`. For the other tail, mirror: ask for -threshold.
    """
    normal = NormalDist().inv_cdf(1 - alpha)
    if discordant >= ENOUGH:
        return normal
    import numpy as np

    spent = _SPENT * alpha
    low, high = (max(abs(threshold), edge) for edge in _clopper_pearson(discordant, n, spent))
    shares = np.linspace(math.sqrt(low), math.sqrt(high), _SHARES if high > low else 1) ** 2
    won, lost = (shares + threshold) / 2, (shares - threshold) / 2
    gains = np.arange(_reach(float(won.max()), n) + 1)[:, None]
    losses = np.arange(_reach(float(lost.max()), n) + 1)[None, :]
    scores = np.where(gains + losses <= n, _scores(gains, losses, n, threshold), -np.inf)
    tail = np.flatnonzero(scores.ravel() > normal)
    tail = tail[np.argsort(-scores.ravel()[tail])]
    risk = _risk(tail // losses.size, tail % losses.size, n, won, lost)
    kept = int(np.searchsorted(risk, alpha - spent, side="right"))
    if kept == len(tail):
        return normal
    # A table with just this score must not pass, and an interval's bound, found by bisection, is rounded.
    return float(scores.ravel()[tail[kept]]) * (1 + _ROUNDING)


def paired_interval(
    gained: int,
    lost: int,
    n: int,
    threshold: float,
    alpha: float = 0.05,
    design: float = 1.0,
    clusters: int = 0,
) -> Interval:
    """Tango's interval with the critical values for a claim about `threshold`; each end at 1 - alpha.

    It lies above (below) `threshold` exactly where the test rejects. Where items come in `clusters`, counts
    are divided by the `design` effect, and Student's t with clusters - 1 degrees of freedom is the least
    critical value (for pairs, after Rao & Scott 1992, Biometrics 48:577).
    """
    if n <= 0 or min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"impossible pairs: {gained} gained and {lost} lost of {n}")
    discordant, size = round((gained + lost) / design), max(1, round(n / design))
    least = student_quantile(1 - alpha, clusters - 1) if clusters > 1 else 0.0
    low_z = max(least, critical_value(discordant, size, threshold, alpha))
    high_z = max(least, critical_value(discordant, size, -threshold, alpha))
    counts, observed = (gained / design, lost / design, n / design), (gained - lost) / n
    low = crossing(*counts, low_z, -1.0, observed)
    return Interval(low, crossing(*counts, -high_z, observed, 1.0))


def _risk(gained: Any, lost: Any, n: int, p_gained: Any, p_lost: Any) -> Any:
    """Highest probability, over the shares, of the tables up to each one: shape [tables], increasing."""
    import numpy as np

    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    rest = n - gained - lost
    ways = logs[n] - logs[gained] - logs[lost] - logs[rest]
    with np.errstate(divide="ignore"):
        chances = [np.log(np.maximum(p, 0))[:, None] for p in (p_gained, p_lost, 1 - p_gained - p_lost)]
    terms = [
        np.where(count == 0, 0.0, count * np.where(np.isfinite(log), log, -1e300))
        for count, log in zip((gained, lost, rest), chances, strict=True)
    ]
    return np.cumsum(np.exp(np.maximum(ways + sum(terms), -700)), axis=1).max(axis=0)


def _scores(gained: Any, lost: Any, n: int, difference: float) -> Any:
    """`stages.statistics.intervals.tango_score` of whole arrays."""
    import numpy as np

    distance = gained - lost - n * difference
    linear = -gained - lost + (2 * n - gained + lost) * difference
    constant = -lost * difference * (1 - difference)
    root = np.sqrt(np.maximum(0.0, linear * linear - 8 * n * constant))
    with np.errstate(divide="ignore", invalid="ignore"):
        lost_share = np.where(linear > 0, -2 * constant / (linear + root), (root - linear) / (4 * n))
        variance = n * (2 * lost_share + difference * (1 - difference))
        scores = distance / np.sqrt(variance)
    certain = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
    return np.where(variance > 0, scores, certain)


def _reach(share: float, n: int) -> int:
    """A count that a binomial of this share exceeds with a probability below `_TAIL` (Bernstein's bound)."""
    log = -math.log(_TAIL)
    return min(n, math.ceil(n * share + log / 3 + math.sqrt(log * log / 9 + 2 * n * share * log)))


def _clopper_pearson(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Two-sided exact interval of a share at confidence 1 - alpha (Clopper & Pearson 1934)."""
    from scipy.special import betainccinv, betaincinv

    low = betaincinv(successes, n - successes + 1, alpha / 2) if successes else 0.0
    high = betainccinv(successes + 1, n - successes, alpha / 2) if successes < n else 1.0
    return float(low), float(high)


def binomial_cdf(successes: int, n: int, share: float) -> float:
    """P(X ≤ successes) for X binomial(n, share)."""
    from scipy.special import bdtr

    return float(bdtr(successes, n, share))
