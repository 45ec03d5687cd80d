"""Means of differences: against scipy's t where items are independent, else against simulation."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from stages.statistics.cluster import clustered_mean, mean_items_needed, student_quantile
from stages.statistics.exact import paired_interval


@pytest.mark.parametrize("share", [0.05, 0.95, 0.975])
def test_students_quantile(share: float) -> None:
    # closed forms for 1 and 2 degrees of freedom, published digits for 19 and 100
    assert student_quantile(share, 1) == pytest.approx(math.tan(math.pi * (share - 0.5)), rel=1e-10)
    two = (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    assert student_quantile(share, 2) == pytest.approx(two, rel=1e-10)
    assert student_quantile(0.975, 19) == pytest.approx(2.0930240544, abs=1e-9)
    assert student_quantile(0.95, 100) == pytest.approx(1.6602343261, abs=1e-9)


def test_independent_symmetric_items_have_students_interval() -> None:
    values = [k / 10 for k in range(-20, 21)]
    found = clustered_mean(values, range(41), 0.05)
    low = stats.t.interval(0.9, 40, loc=0, scale=stats.sem(values))[0]
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(-low)
    assert (found.design, found.moved) == (pytest.approx(1.0, abs=0.03), 40)


def test_identical_items_of_a_cluster_count_once() -> None:
    rng = random.Random(1)
    once = [rng.gauss(0, 1) for _ in range(50)]
    four = [value for value in once for _ in range(4)]
    alone = clustered_mean(once, range(50))
    together = clustered_mean(four, [k // 4 for k in range(200)])
    assert together.error == pytest.approx(alone.error)
    assert together.design == pytest.approx(4.0)
    assert (together.low, together.high) == (pytest.approx(alone.low), pytest.approx(alone.high))


@pytest.mark.parametrize(("n", "rate"), [(300, 0.15), (500, 0.1)])
def test_rare_large_losses_do_not_slip_through(n: int, rate: float) -> None:
    """At the margin; differences mostly 0, many small gains, few large losses: the worst case for a mean."""
    rng = np.random.default_rng(5)
    trials, passed, naive = 1500, 0, 0
    truth = rate * (0.9 * 0.05 - 0.1 * 0.75)
    for _ in range(trials):
        size = np.where(rng.random(n) < 0.1, -rng.uniform(0.5, 1, n), rng.uniform(0, 0.1, n))
        values = np.where(rng.random(n) < rate, size, 0.0)
        passed += clustered_mean(values.tolist(), range(n)).low > truth
        naive += stats.t.interval(0.9, n - 1, values.mean(), stats.sem(values))[0] > truth
    assert naive / trials > 0.09
    assert passed / trials < 0.06


def test_clustered_flips_keep_the_promised_risk() -> None:
    """Four questions per passage that flip together, at the margin: counted alone and as clusters."""
    rng = random.Random(6)
    groups, per, trials = 150, 4, 1000
    naive = clustered = 0
    for _ in range(trials):
        values, owners = [], []
        for group in range(groups):
            chance = rng.random()
            common = -1 if chance < 0.06 else 1 if chance < 0.08 else 0  # true difference -0.04
            values += [common if rng.random() < 0.9 else 0 for _ in range(per)]
            owners += [group] * per
        gained, lost = values.count(1), values.count(-1)
        mean = clustered_mean(values, owners)
        bounds = paired_interval(gained, lost, len(values), -0.036, 0.05, mean.design, mean.clusters)
        clustered += bounds.low > -0.036
        naive += paired_interval(gained, lost, len(values), -0.036).low > -0.036
    assert naive / trials > 0.12
    assert clustered / trials < 0.06


def test_nothing_differs() -> None:
    found = clustered_mean([0.0] * 30, range(30))
    assert (found.value, found.error, found.moved) == (0.0, 0.0, 0)


def test_one_cluster_says_nothing() -> None:
    with pytest.raises(ValueError, match="at least two clusters"):
        clustered_mean([1.0, 2.0], ["a", "a"])


def test_items_needed_for_a_mean() -> None:
    needed = mean_items_needed(0.5, 0.0, -0.05)
    assert needed == math.ceil((0.5 / 0.05 * (stats.norm.isf(0.05) + stats.norm.isf(0.2))) ** 2)
    assert mean_items_needed(0.5, 0.1, 0.1) is None
