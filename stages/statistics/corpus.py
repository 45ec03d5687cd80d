"""Figures of all items together, from counts that each item keeps, and their intervals by a bootstrap.

A figure is computed from the items' summed counts: precision, recall and F1 from (matched, predicted,
expected), log-likelihood and perplexity from (log-loss of all tokens in nats, tokens), BLEU from (length,
reference length, n-grams matched of 1 to 4 words, n-grams of 1 to 4 words).
There is no formula for its interval that holds with few items, so items, or whole clusters, are drawn again
with a fixed seed (Field and Welsh 2007, JRSS B 69:369, the cluster bootstrap). The bounds are corrected for
bias and skewness: BCa, Efron 1987, JASA 82:171.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, get_args

from stages.statistics.cluster import Mean
from stages.statistics.intervals import wilson

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

Figure = Literal["precision", "recall", "f1", "bleu", "log_likelihood", "perplexity"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
COUNTS = {"precision": 3, "recall": 3, "f1": 3, "bleu": 10, "log_likelihood": 2, "perplexity": 2}
"""Figure → how many counts it is computed from."""
_SHARES = ("precision", "recall", "f1")
_UNSURE = 12.0
"""Nats that a token costs where each of 160,000 is as likely as the others: more than any usable model."""
_POSSIBLE = {
    **dict.fromkeys(_SHARES, (0.0, 1.0)),
    "bleu": (0.0, 100.0),
    "log_likelihood": (-_UNSURE, 0.0),
    "perplexity": (1.0, math.exp(_UNSURE)),
}
RESAMPLES = 4000
_AT_ONCE = 100_000
"""Draws at one time: what counts them stays in the processor's cache."""
_ORDERS = 4


def figure_of(figure: Figure, counts: Array) -> Array:
    """`figure` of each row of `counts` [..., COUNTS[figure]]; 0 where there is nothing to divide by.

    Precision, recall and F1 are shares; log-likelihood is in nats per token, perplexity its exponential with
    the sign turned; BLEU is 0 to 100, smoothed as NIST's mteval-v13a does ("exp" in
    sacrebleu: Chen and Cherry 2014, W14-3346, method 3). ValueError for another number of counts.
    """
    import numpy as np

    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape[-1] != COUNTS[figure]:
        raise ValueError(f"{figure} needs {COUNTS[figure]} counts, found {counts.shape[-1]}")
    if figure == "bleu":
        return _bleu(counts)
    if figure in ("log_likelihood", "perplexity"):
        loss = _ratio(counts[..., 0], counts[..., 1])
        return np.asarray(-loss if figure == "log_likelihood" else np.exp(np.minimum(loss, 700.0)))
    matched, predicted, expected = np.moveaxis(counts, -1, 0)
    if figure == "f1":
        return _ratio(2 * matched, predicted + expected)
    return _ratio(matched, predicted if figure == "precision" else expected)


def value_of(figure: Figure, items: Sequence[Sequence[float]]) -> float:
    """The figure of all items, each given by its counts."""
    import numpy as np

    return float(figure_of(figure, np.asarray(items, dtype=np.float64).sum(axis=0)))


def each_of(figure: Figure, items: Sequence[Sequence[float]]) -> list[float]:
    """The figure of each item by itself."""
    import numpy as np

    return [float(value) for value in figure_of(figure, np.asarray(items, dtype=np.float64))]


def corpus_interval(
    figure: Figure, items: Sequence[Sequence[float]], clusters: Sequence[Hashable], alpha: float = 0.025
) -> tuple[float, float, Literal["bootstrap", "wilson"]]:
    """Bounds at 1 - alpha each, and how they were found.

    A share of 0 or 1 is the same in every resample, which shows no doubt: Wilson's interval of as many
    clusters takes its place.
    """
    sums = _by_cluster(items, clusters)
    value = float(figure_of(figure, sums.sum(axis=0)))
    if figure in _SHARES and value in (0.0, 1.0):
        low, high = wilson(value * len(sums), len(sums), 1 - 2 * alpha)
        return low, high, "wilson"
    mean = _bounds(sums, lambda rows: figure_of(figure, rows), alpha, len(items), _POSSIBLE[figure])
    return min(mean.low, value), max(mean.high, value), "bootstrap"


def corpus_difference(
    figure: Figure,
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    alpha: float = 0.05,
) -> Mean:
    """How much larger `figure` is of `ours` than of `theirs`, whose items are the same, in the same order.

    Both sides of an item are drawn together. `low` and `high` are bounds at 1 - alpha each, `error` the
    standard deviation of the resamples, `moved` the clusters whose counts differ. ValueError with fewer than
    two clusters.
    """
    mine, other = _by_cluster(ours, clusters), _by_cluster(theirs, clusters)
    if len(mine) < 2:
        raise ValueError(f"a spread needs at least two clusters, found {len(mine)}")
    import numpy as np

    k = COUNTS[figure]

    def difference(rows: Array) -> Array:
        return figure_of(figure, rows[..., :k]) - figure_of(figure, rows[..., k:])

    moved = int((mine != other).any(axis=1).sum())
    least, most = _POSSIBLE[figure]
    possible = (least - most, most - least)
    return _bounds(np.hstack([mine, other]), difference, alpha, len(ours), possible, moved)


def _by_cluster(items: Sequence[Sequence[float]], clusters: Sequence[Hashable]) -> Array:
    """Summed counts [clusters, counts], in the order of the clusters' first items."""
    import numpy as np

    places: dict[Hashable, int] = {}
    index = np.array([places.setdefault(cluster, len(places)) for cluster in clusters], dtype=np.int64)
    counts = np.asarray(items, dtype=np.float64)
    sums = np.zeros((len(places), counts.shape[1]))
    np.add.at(sums, index, counts)
    return sums


def _bounds(
    rows: Array, statistic: Any, alpha: float, n: int, possible: tuple[float, float], moved: int = 0
) -> Mean:
    """BCa bounds of `statistic` of the summed `rows`, each drawn as one.

    Where every draw is alike, as many of the clusters that were not seen may be otherwise as leaves such a
    sample a chance of `alpha`, and lie at either end of what is `possible`.
    """
    import numpy as np

    whole = rows.sum(axis=0)
    value = float(statistic(whole))
    drawn = np.concatenate([statistic(sums) for sums in _resampled(rows)])
    error = float(drawn.std(ddof=1))
    if error < 1e-15:
        unseen = 1 - alpha ** (1 / len(rows))
        low, high = (value + (end - value) * unseen for end in possible)
        return Mean(value, low, high, 0.0, n, len(rows), moved, 1.0)
    left_out = statistic(whole - rows)  # the jackknife: each cluster is taken away once
    lean = left_out.mean() - left_out
    squares = float((lean**2).sum())
    acceleration = float((lean**3).sum()) / (6 * squares**1.5) if squares else 0.0
    tolerance = 1e-12 * max(1.0, abs(value))
    below = float(np.mean((drawn < value - tolerance) + 0.5 * (abs(drawn - value) <= tolerance)))
    edge = 0.5 / len(drawn)
    bias = NormalDist().inv_cdf(min(max(below, edge), 1 - edge))
    low, high = (
        float(np.quantile(drawn, _share(NormalDist().inv_cdf(tail), bias, acceleration)))
        for tail in (alpha, 1 - alpha)
    )
    return Mean(value, low, high, error, n, len(rows), moved, 1.0)


def _share(z: float, bias: float, acceleration: float) -> float:
    """Which quantile of the resamples is the bound: equation 6.5 of Efron 1987."""
    moved = bias + z
    slack = 1 - acceleration * moved
    if slack <= 0:
        return 1.0 if z > 0 else 0.0
    return NormalDist().cdf(bias + moved / slack)


def _resampled(rows: Array) -> Iterator[Array]:
    """Summed rows [some, columns] of as many draws with replacement, RESAMPLES in all."""
    import numpy as np

    count = len(rows)
    random = np.random.default_rng(0)
    step = max(1, min(RESAMPLES, _AT_ONCE // count))
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        draws = random.integers(0, count, size=(size, count)) + count * np.arange(size)[:, None]
        weights = np.bincount(draws.ravel(), minlength=size * count).reshape(size, count)
        yield weights.astype(np.float64) @ rows


def _ratio(above: Array, below: Array) -> Array:
    import numpy as np

    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _bleu(counts: Array) -> Array:
    import numpy as np

    length, reference = counts[..., 0], counts[..., 1]
    matched, total = counts[..., 2 : 2 + _ORDERS], counts[..., 2 + _ORDERS :]
    smoothing = 2.0 ** np.cumsum((matched == 0) & (total > 0), axis=-1)
    numerator = np.where(matched > 0, matched, 1 / smoothing)
    precision = _ratio(numerator, total)
    known = (total > 0).all(axis=-1) & (matched > 0).any(axis=-1)
    logs = np.log(np.where(precision > 0, precision, 1.0)).mean(axis=-1)
    brevity = np.exp(np.minimum(0.0, 1 - _ratio(reference, length)))
    return np.where(known & (length > 0), 100 * brevity * np.exp(logs), 0.0)
