"""How well scores tell good from bad: the area under the ROC curve, its interval, and differences of two.

The area is the share of pairs of a good and a bad item in which the good one scores higher, equal ones as
half a pair. Each item gets a pseudo-value, and their mean is the area, the standard error of their mean that
of the area (the structural components of DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837; summed
over clusters as by Obuchowski 1997, Biometrics 53:567). The interval is symmetric for the area's logit, since
plain ones are too narrow near 1. That of a difference is put together from both (MOVER: Zou and Donner 2008,
Statistics in Medicine 27:1693), as correlated as the pseudo-values are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from stages.statistics.cluster import Mean, student_quantile
from stages.statistics.intervals import wilson

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


def pseudo_values(scores: Sequence[float], good: Sequence[bool]) -> list[float]:
    """Of each item: its share of the area, which may be above 1 or below 0.

    With m good items of n and V the share of the bad ones that a good item is above, its value is
    A + (V - A)·n/√(m(m - 1)), and a bad item's likewise. ValueError with fewer than two of either label.
    """
    import numpy as np

    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(good, dtype=bool)
    counts = int(labels.sum()), int((~labels).sum())
    if min(counts) < 2:
        raise ValueError(f"the spread of an area needs two items of each label, found {counts}")
    placed = np.empty(len(values))
    for own, sign in ((labels, 1.0), (~labels, -1.0)):
        other = np.sort(sign * values[~own])
        below = np.searchsorted(other, sign * values[own], side="left")
        equal = np.searchsorted(other, sign * values[own], side="right") - below
        placed[own] = (below + 0.5 * equal) / len(other)
    area = float(placed[labels].mean())
    good_scale, bad_scale = (len(values) / math.sqrt(count * (count - 1)) for count in counts)
    return [float(v) for v in area + (placed - area) * np.where(labels, good_scale, bad_scale)]


class _Area(NamedTuple):
    value: float
    sums: Array
    """Of each cluster: its pseudo-values' deviations from the area, over the number of items."""
    low: float
    high: float
    interval: Literal["logit", "wilson"]


def area_interval(
    values: Sequence[float], good: Sequence[bool], clusters: Sequence[Hashable], alpha: float = 0.025
) -> tuple[float, float, Literal["logit", "wilson"]]:
    """Bounds at 1 - alpha each of the area that `values`, pseudo-values, have, and how they were found.

    Where all pairs are right, or none is, nothing shows a spread: Wilson's interval takes its place, of as
    many pairs as have no item in common. ValueError with fewer than two clusters of a label.
    """
    found = _area(values, good, clusters, alpha)
    return found.low, found.high, found.interval


def area_difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    good: Sequence[bool],
    clusters: Sequence[Hashable],
    alpha: float = 0.05,
) -> Mean:
    """How much larger the area of `ours` is than that of `theirs`, pseudo-values of the same items.

    `low` and `high` are bounds at 1 - alpha each, `moved` the clusters whose pseudo-values differ. ValueError
    with fewer than two clusters of a label.
    """
    import numpy as np

    mine, other = (_area(values, good, clusters, alpha) for values in (ours, theirs))
    spreads = [float((side.sums**2).sum()) for side in (mine, other)]
    common = float((mine.sums * other.sums).sum())
    alike = common / math.sqrt(spreads[0] * spreads[1]) if all(spreads) else 0.0
    value = mine.value - other.value

    def reach(one: float, another: float) -> float:
        return math.sqrt(max(0.0, one**2 + another**2 - 2 * alike * one * another))

    low = value - reach(mine.value - mine.low, other.high - other.value)
    high = value + reach(mine.high - mine.value, other.value - other.low)
    differing = {c for c, a, b in zip(clusters, ours, theirs, strict=True) if not np.isclose(a, b)}
    error = math.sqrt(max(0.0, sum(spreads) - 2 * common))
    return Mean(value, low, high, error, len(ours), len(mine.sums), len(differing), 1.0)


def _area(values: Sequence[float], good: Sequence[bool], clusters: Sequence[Hashable], alpha: float) -> _Area:
    import numpy as np

    area = min(1.0, max(0.0, math.fsum(values) / len(values)))
    sums = dict.fromkeys(clusters, 0.0)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += (value - area) / len(values)
    deviations = np.array(list(sums.values())) * math.sqrt(len(sums) / max(1, len(sums) - 1))
    by_label = ({c for c, g in zip(clusters, good, strict=True) if g is label} for label in (True, False))
    fewest = min(map(len, by_label))
    if fewest < 2:
        raise ValueError(f"the spread of an area needs two clusters of each label, found {fewest} of one")
    error = float(np.sqrt((deviations**2).sum()))
    if area in (0.0, 1.0) or not error:
        low, high = wilson(area * fewest, fewest, 1 - 2 * alpha)
        return _Area(area, deviations, min(low, area), max(high, area), "wilson")
    middle = math.log(area / (1 - area))
    reach = student_quantile(1 - alpha, fewest - 1) * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-min(500.0, max(-500.0, middle + way * reach)))) for way in (-1, 1))
    return _Area(area, deviations, low, high, "logit")
