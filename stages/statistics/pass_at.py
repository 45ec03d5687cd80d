"""pass@k: how likely one of k drawn answers is right.

Of each item n ≥ k answers are drawn, c of them right; 1 - C(n-c, k) / C(n, k) is an unbiased estimate of the
item's pass@k (Chen et al. 2021, arXiv 2107.03374, section 2.1). Drawn answers of one item are no independent
evidence, so the unit of every interval is the item, or the chat that items are of.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal

from stages.statistics.cluster import FEWEST, clustered_mean
from stages.statistics.intervals import wilson

PREFIX = "pass@"


def pass_at_k(drawn: int, right: int, k: int) -> float:
    """The estimate from `drawn` answers of which `right` are right. ValueError for impossible numbers."""
    if not (0 <= right <= drawn and 1 <= k <= drawn):
        raise ValueError(f"pass@{k} needs k of 1 to as many answers as were drawn, found {right} of {drawn}")
    if drawn - right < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(drawn - right + 1, drawn + 1))


def pass_interval(
    estimates: Sequence[float], clusters: Sequence[Hashable], alpha: float = 0.025
) -> tuple[float, float, Literal["clustered", "wilson"]]:
    """Bounds at 1 - alpha each of the mean of the items' `estimates`, and how they were found.

    By `clustered_mean`, within 0 and 1. Where fewer than `FEWEST` clusters are anything but all wrong, or
    anything but all right, what is rare was perhaps not seen: Wilson's interval of as many clusters, whose
    variance no estimates between 0 and 1 exceed. ValueError where there are none.
    """
    groups: dict[Hashable, list[float]] = {}
    for estimate, cluster in zip(estimates, clusters, strict=True):
        groups.setdefault(cluster, []).append(estimate)
    apart = min(sum(any(e != end for e in group) for group in groups.values()) for end in (0.0, 1.0))
    mean = math.fsum(estimates) / max(1, len(estimates))
    if apart < FEWEST:
        low, high = wilson(min(1.0, mean) * len(groups), len(groups), 1 - 2 * alpha)
        return low, high, "wilson"
    found = clustered_mean(estimates, clusters, alpha)
    return max(0.0, found.low), min(1.0, found.high), "clustered"
