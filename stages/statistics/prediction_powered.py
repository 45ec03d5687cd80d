"""Means of paired differences that a judge has scored on all items, and people on some of them.

Prediction-powered inference (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic 2023, Science 382:669): the
judge's mean over the items without a label, plus the judge's mean error on those with one. The interval is
about what people would say of all items, whatever the judge's bias is. The judge counts as much as it is
worth (PPI++: Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453): with the weight 0, for a judge that knows
nothing, the labels decide alone. Both rest on labels of items that were drawn at random.

What is added for few labels: errors over clusters, Student's t with as many degrees of freedom as clusters
with a label leave, Hall's correction for skewness (as `stages.statistics.cluster`; of a sum of independent
means the third cumulants add up), and for each bound one more labelled item on which the judge was wrong by
the whole scale. Without the latter a judge that happens to agree with all labels would be taken for perfect.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from stages.statistics.cluster import hall_inverse, student_quantile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Numbers = npt.NDArray[np.int64]

FEWEST_LABELS = 50
"""Labelled clusters below which the spread of the judge's errors is not known well enough."""
CHOSEN = 3.5
"""Standard errors between labelled and other items that chance exceeds once in 2,000 draws."""


class PoweredMean(NamedTuple):
    """A mean over `n` items, `labels` of which people scored; `low` and `high` are one-sided bounds.

    `error` is the standard error, `groups` the clusters with a label, `weight` what the judge counts, 0 to 1,
    `judged` the judge's own mean over all items, `bias` its mean error (judged minus label) where labels are.
    """

    value: float
    low: float
    high: float
    error: float
    n: int
    labels: int
    groups: int
    weight: float
    judged: float
    bias: float


class _Split(NamedTuple):
    """`errors` [labels]: label minus weight · judged; `shown` [others]: weight · judged; clusters of both."""

    errors: Array
    shown: Array
    labelled: Numbers
    others: Numbers


def prediction_powered_mean(
    judged: Sequence[float],
    labels: Sequence[float | None],
    clusters: Sequence[Hashable],
    alpha: float = 0.05,
    span: float = 1.0,
) -> PoweredMean:
    """The mean that people would find, with bounds at 1 - alpha each.

    `judged` [n] is the judge's figure of each item, `labels` [n] the people's, None where there is none;
    `span` is the width of the scale. Items of one cluster count as dependent. ValueError where labels are in
    fewer than two clusters.
    """
    import numpy as np

    scores = np.asarray(judged, dtype=np.float64)
    known = np.array([label is not None for label in labels], dtype=bool)
    said = np.array([label for label in labels if label is not None], dtype=np.float64)
    numbers = _numbered(clusters)
    seen, unseen = scores[known], scores[~known]
    if len(np.unique(numbers[known])) < 2:
        raise ValueError("a spread needs labels in at least two clusters")
    weight = _weight(said, seen, scores, len(unseen))
    split = _Split(said - weight * seen, weight * unseen, numbers[known], numbers[~known])
    value, error, _, groups = _spread(split)
    low, high = (_bound(split, worst, alpha) for worst in (-span, span))
    bias = float((seen - said).mean())
    return PoweredMean(
        value, low, high, error, len(scores), len(said), groups, weight, float(scores.mean()), bias
    )


def labels_needed(mean: PoweredMean, threshold: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """About how many labels tell `mean` from `threshold`, if its value stays as it is; None if none would do.

    As if the labels alone made the error, which is nearly so where most items have none.
    """
    gap = abs(mean.value - threshold)
    if gap < 1e-9 * max(1.0, abs(threshold)):
        return None
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)
    return max(FEWEST_LABELS, math.ceil(mean.labels * (z * mean.error / gap) ** 2))


def distance_of_labelled(
    judged: Sequence[float], labels: Sequence[float | None], clusters: Sequence[Hashable]
) -> float:
    """Standard errors between the judge's means over the items with and without a label; 0 to infinity.

    Of items drawn at random it exceeds `CHOSEN` by chance once in 2,000 times. 0 where all or none have one.
    """
    import numpy as np

    scores = np.asarray(judged, dtype=np.float64)
    known = np.array([label is not None for label in labels], dtype=bool)
    m = int(known.sum())
    if m in (0, len(scores)):
        return 0.0
    gap = abs(float(scores[known].mean() - scores[~known].mean()))
    shares = np.where(known, 1 / m, -1 / (len(scores) - m))
    sums = np.bincount(_numbered(clusters), weights=shares * (scores - scores.mean()))
    error = math.sqrt(float((sums**2).sum()))
    if error < 1e-12:
        return 0.0 if gap < 1e-12 else math.inf
    return gap / error


def _numbered(clusters: Sequence[Hashable]) -> Numbers:
    import numpy as np

    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(cluster, len(places)) for cluster in clusters], dtype=np.int64)


def _weight(said: Array, seen: Array, scores: Array, rest: int) -> float:
    """What the judge counts so that the variance is least, as PPI++ has it for means, within 0 and 1."""
    spread = float(scores.var(ddof=1))
    if not rest or spread < 1e-15:
        return 0.0
    together = float(((said - said.mean()) * (seen - seen.mean())).sum()) / (len(said) - 1)
    return min(1.0, max(0.0, together / spread / (1 + len(said) / rest)))


def _spread(split: _Split) -> tuple[float, float, float, int]:
    """The estimate, its standard error over clusters, its skewness, and the clusters with a label."""
    import numpy as np

    value = float(split.errors.mean())
    parts = [(split.errors - value) / len(split.errors)]
    if len(split.shown):
        shown = float(split.shown.mean())
        value += shown
        parts.append((split.shown - shown) / len(split.shown))
    sums = np.bincount(np.concatenate([split.labelled, split.others]), weights=np.concatenate(parts))
    groups = len(np.unique(split.labelled))
    squares, cubes = float((sums**2).sum()), float((sums**3).sum())
    lean = cubes / squares**1.5 if squares > 1e-30 else 0.0
    return value, math.sqrt(groups / (groups - 1) * squares), lean, groups


def _bound(split: _Split, worst: float, alpha: float) -> float:
    """The bound on the side of `worst`, the error of one more labelled item in a cluster of its own."""
    import numpy as np

    fresh = 1 + max(int(numbers.max(initial=0)) for numbers in (split.labelled, split.others))
    more = split._replace(errors=np.append(split.errors, worst), labelled=np.append(split.labelled, fresh))
    value, error, lean, groups = _spread(more)
    t = student_quantile(1 - alpha, groups - 1)
    return value - error * hall_inverse(t if worst < 0 else -t, lean)
