"""How many items a gate needs, and how likely it passes with those it has: summed exactly, not simulated."""

from __future__ import annotations

import math
from statistics import NormalDist

from stages.statistics.exact import critical_value
from stages.statistics.intervals import tango_score

MOST_ITEMS = 10_000_000
_TAIL = 1e-9


def pass_probability(
    n: int, discordant: float, difference: float, threshold: float, alpha: float = 0.05
) -> float:
    """Probability that a gate on `n` pairs shows the difference to be above `threshold`.

    `discordant` is the share of pairs on which the models differ, `difference` the true one. The number of
    such pairs is binomial, and given it the gains are; both are summed. Taken at `difference == threshold`
    it is the risk of passing wrongly. ValueError for a difference beyond the share of discordant pairs.
    """
    if not abs(difference) <= discordant <= 1 or n < 1:
        raise ValueError(f"a difference of {difference} needs a flip rate of at least that; got {discordant}")
    won = (discordant + difference) / (2 * discordant) if discordant else 0.0
    first, last = _middle(n, discordant)
    total, needed = 0.0, 0
    for pairs in range(first, last + 1):
        needed = _gains_needed(pairs, n, threshold, alpha, near=needed)
        total += math.exp(_log_binomial(pairs, n, discordant)) * _at_least(needed, pairs, won)
    return min(1.0, total)


def items_needed(
    discordant: float, difference: float, threshold: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Pairs with which a gate tells `difference` from `threshold` with `power`.

    n = ((z_α σ₀ + z_β σ₁) / (δ - δ₀))², σ₁² = ψ - δ² and σ₀² the variance that the score statistic uses when
    the data are as expected (Liu et al. 2002, Statistics in Medicine 21:231, equation 12), with the critical
    value of `stages.statistics.exact` where few discordant pairs are expected. None where no number would do.
    """
    gap = abs(difference - threshold)
    if gap < 1e-9:
        return None
    sign = 1 if difference > threshold else -1
    null = math.sqrt(_null_variance(discordant, sign * difference, sign * threshold))
    spread = math.sqrt(max(discordant - difference * difference, 0.0))
    z_beta, z = NormalDist().inv_cdf(power), NormalDist().inv_cdf(1 - alpha)
    n = MOST_ITEMS
    for _ in range(8):
        n, before = max(1, math.ceil(((z * null + z_beta * spread) / gap) ** 2)), n
        if n == before or n >= MOST_ITEMS:
            break
        z = critical_value(round(n * discordant), n, sign * threshold, alpha)
    return n if n < MOST_ITEMS else None


def plan(
    discordant: float, difference: float, threshold: float, alpha: float = 0.05, power: float = 0.8
) -> tuple[int, float] | None:
    """Items needed and the exact power with them: `items_needed`, corrected until the power is reached.

    Where few discordant pairs are expected the power goes up and down with the number of items; what is
    returned has at least the power asked for and is within about 2 % of the fewest that do. None where no
    number would do.
    """
    n = items_needed(discordant, difference, threshold, alpha, power)
    if n is None:
        return None
    sign = 1 if difference > threshold else -1
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)
    powers: dict[int, float] = {}
    while n not in powers and len(powers) < 6:
        powers[n] = pass_probability(n, discordant, sign * difference, sign * threshold, alpha)
        reached = NormalDist().inv_cdf(min(max(powers[n], 0.01), 0.999)) + NormalDist().inv_cdf(1 - alpha)
        n = max(2, math.ceil(n * (z / reached) ** 2)) if reached > 0.1 else 4 * n
    enough = [size for size, reached in powers.items() if reached >= power]
    n = min(enough, default=max(powers))
    while (
        powers.setdefault(n, pass_probability(n, discordant, sign * difference, sign * threshold, alpha))
        < power
    ):
        n = math.ceil(1.02 * n) + 1
    return n, powers[n]


def _null_variance(discordant: float, difference: float, threshold: float) -> float:
    """n · variance of the difference under the hypothesis, at the tables that are to be expected."""
    scale = 1e6
    gained, lost = scale * (discordant + difference) / 2, scale * (discordant - difference) / 2
    score = tango_score(gained, lost, scale, threshold)
    return scale * ((difference - threshold) / score) ** 2


def _gains_needed(pairs: int, n: int, threshold: float, alpha: float, near: int) -> int:
    """The fewest gains among so many discordant pairs whose score is high enough; one more if none do."""
    z = critical_value(pairs, n, threshold, alpha)
    gains = min(near, pairs + 1)
    while gains > 0 and tango_score(gains - 1, pairs - gains + 1, n, threshold) > z:
        gains -= 1
    while gains <= pairs and not tango_score(gains, pairs - gains, n, threshold) > z:
        gains += 1
    return gains


def _middle(n: int, share: float) -> tuple[int, int]:
    """Counts outside of which a binomial lies with a probability below `_TAIL` (Bernstein's bound)."""
    log = -math.log(_TAIL)
    reach = log / 3 + math.sqrt(log * log / 9 + 2 * n * share * log)
    return max(0, math.floor(n * share - reach)), min(n, math.ceil(n * share + reach))


def _log_binomial(k: int, n: int, share: float) -> float:
    if share in (0.0, 1.0):
        return 0.0 if k == n * share else -math.inf
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(share) + (n - k) * math.log1p(-share)


def _at_least(k: int, n: int, share: float) -> float:
    """P(X ≥ k) for X binomial(n, share)."""
    from scipy.special import bdtrc

    return float(bdtrc(k - 1, n, share))
