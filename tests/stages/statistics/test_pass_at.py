from __future__ import annotations

import itertools
import math

import pytest

from stages.statistics.cluster import clustered_mean
from stages.statistics.intervals import wilson
from stages.statistics.pass_at import pass_at_k, pass_interval


def test_the_estimate_is_the_share_of_draws_with_a_right_one() -> None:
    for drawn, right in ((5, 2), (6, 0), (4, 4), (7, 3)):
        answers = [True] * right + [False] * (drawn - right)
        for k in range(1, drawn + 1):
            chosen = [any(some) for some in itertools.combinations(answers, k)]
            assert pass_at_k(drawn, right, k) == pytest.approx(sum(chosen) / len(chosen), abs=1e-12)


def test_the_mean_of_the_estimates_is_the_truth() -> None:
    drawn, k, chance = 8, 3, 0.2
    weights = [math.comb(drawn, c) * chance**c * (1 - chance) ** (drawn - c) for c in range(drawn + 1)]
    mean = sum(weight * pass_at_k(drawn, c, k) for c, weight in enumerate(weights))
    assert mean == pytest.approx(1 - (1 - chance) ** k)
    plain = sum(weight * (1 - (1 - c / drawn) ** k) for c, weight in enumerate(weights))
    assert plain < mean - 0.03, "the plain figure is too low"


@pytest.mark.parametrize(("drawn", "right", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_impossible_numbers_are_refused(drawn: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match=rf"pass@{k} needs"):
        pass_at_k(drawn, right, k)


def test_where_few_items_differ_what_is_rare_counts_as_unseen() -> None:
    estimates = [1.0] * 90 + [0.5] * 10
    low, high, kind = pass_interval(estimates, range(100))
    assert kind == "wilson"
    assert (low, high) == pytest.approx(wilson(95, 100))


def test_many_items_have_the_interval_of_a_clustered_mean_within_0_and_1() -> None:
    estimates = [k / 40 for k in range(40)]
    found = pass_interval(estimates, range(40))
    mean = clustered_mean(estimates, range(40), 0.025)
    assert found == (mean.low, mean.high, "clustered")
    chats = pass_interval([*estimates, *estimates], [k % 40 for k in range(80)])
    assert chats[:2] == pytest.approx((mean.low, mean.high)), "items of one chat count once"
    assert pass_interval([0.0] * 30, range(30))[0] == 0
