"""The area under the ROC curve: its pseudo-values, its interval, and the difference of two."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stages.statistics.intervals import wilson
from stages.statistics.roc import area_difference, area_interval, pseudo_values

GOOD = [True, False, True, True, False, False, True]
SCORES = [3.0, 1.0, 2.0, 0.0, 2.0, 5.0, 4.0]


def test_the_mean_of_the_pseudo_values_is_the_share_of_pairs() -> None:
    pairs = [
        (SCORES[i], SCORES[j]) for i, j in itertools.product(range(7), repeat=2) if GOOD[i] and not GOOD[j]
    ]
    area = sum(g > b or (g == b) / 2 for g, b in pairs) / len(pairs)
    assert math.fsum(pseudo_values(SCORES, GOOD)) / 7 == pytest.approx(area)
    above = [sum(s > b or (s == b) / 2 for b in (1, 2, 5)) / 3 for s in (3, 2, 0, 4)]
    below = [sum(g > s or (g == s) / 2 for g in (3, 2, 0, 4)) / 4 for s in (1, 2, 5)]
    variance = np.var(above, ddof=1) / 4 + np.var(below, ddof=1) / 3  # DeLong's, by the book
    values = np.array(pseudo_values(SCORES, GOOD))
    assert float(((values - area) ** 2).sum()) / 49 == pytest.approx(variance)


def test_where_all_pairs_are_right_the_interval_is_that_of_as_many_separate_pairs() -> None:
    good = [True] * 5 + [False] * 9
    values = pseudo_values([1.0] * 5 + [0.0] * 9, good)
    assert values == [1.0] * 14
    assert area_interval(values, good, range(14)) == (wilson(5, 5)[0], 1.0, "wilson")
    one_prompt = area_interval(values, good, [0, 0, 0, 1, 2, *range(5, 14)])
    assert one_prompt[0] == wilson(3, 3)[0]


def test_an_interval_is_wider_where_answers_to_one_prompt_go_together_and_stays_below_1() -> None:
    rng = np.random.default_rng(4)
    good = [True] * 40 + [False] * 40
    shared = np.repeat(rng.standard_normal(40), 2)
    scores = shared + 0.1 * rng.standard_normal(80) + np.array(good)
    values = pseudo_values(scores.tolist(), good)
    alone, together = (
        area_interval(values, good, clusters) for clusters in (range(80), [k // 2 for k in range(80)])
    )
    assert together[1] - together[0] > 1.2 * (alone[1] - alone[0])
    near = pseudo_values([*(np.arange(40) + 38.5), *np.arange(40)], good)
    low, high, how = area_interval(near, good, range(80))
    assert (0.9 < low < math.fsum(near) / 80 < high < 1, how) == (True, "logit")


def test_a_difference_is_surer_the_more_the_two_have_in_common() -> None:
    rng = np.random.default_rng(5)
    good = [True] * 60 + [False] * 60
    shared = rng.standard_normal(120)
    first, second, other = (
        pseudo_values((base + 0.2 * rng.standard_normal(120) + lead * np.array(good)).tolist(), good)
        for base, lead in ((shared, 1.0), (shared, 0.5), (rng.standard_normal(120), 0.5))
    )
    paired, apart = (area_difference(first, side, good, range(120)) for side in (second, other))
    assert paired.value == pytest.approx((math.fsum(first) - math.fsum(second)) / 120)
    assert 0 < paired.low < paired.value < paired.high
    assert paired.high - paired.low < 0.6 * (apart.high - apart.low)
    same = area_difference(first, first, good, range(120))
    assert (same.value, same.moved) == (0.0, 0)
    assert same.high - same.low < (paired.high - paired.low) / 2


def test_too_few_of_a_label_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two items of each label, found \(1, 6\)"):
        pseudo_values(SCORES, [True] + [False] * 6)
    with pytest.raises(ValueError, match="two clusters of each label, found 1 of one"):
        area_interval(pseudo_values(SCORES, GOOD), GOOD, [0, 1, 0, 0, 4, 5, 0])
