"""Conformal martingales: uniform ranks, a risk that holds for ever, and changes that are found."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from stages.statistics.conformal import Martingale, _payoffs


def test_each_bet_is_fair_and_never_loses_all() -> None:
    grid = (np.arange(20_000) + 0.5) / 20_000
    payoffs = np.array([_payoffs(p) for p in grid])
    assert payoffs.mean(axis=0) == pytest.approx(1, abs=1e-6)
    assert payoffs.min() > 0


def test_ranks_are_uniform_with_ties_and_whatever_the_distribution() -> None:
    draw = random.Random(2)
    martingale = Martingale(draw.choice([0.0, 0.0, 1.0]) for _ in range(50))
    ranks = [martingale.add(draw.choice([0.0, 0.0, 1.0]), draw.random()) for _ in range(2000)]
    counts = np.histogram(ranks, bins=10, range=(0, 1))[0]
    assert abs(counts - 200).max() < 60


def test_without_a_change_few_ever_reach_twenty_and_with_one_they_do_also_late() -> None:
    def reaches(seed: int, late: bool) -> bool:
        draw = random.Random(seed)
        martingale = Martingale(draw.gauss(0, 1) for _ in range(100))
        for row in range(500):
            martingale.add(draw.gauss(1.0 if late and row >= 300 else 0, 1), draw.random())
            if martingale.log_e >= math.log(20):
                return True
        return False

    assert sum(reaches(seed, late=False) for seed in range(100)) <= 5
    assert sum(reaches(seed, late=True) for seed in range(20)) == 20


def test_a_rank_needs_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="at least two reference rows"):
        Martingale([1.0])
