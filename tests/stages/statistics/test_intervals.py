from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.statistics.intervals import mcnemar, tango, tango_score, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (no correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="a share needs"):
        wilson(successes, n)


def test_tango_gives_the_published_interval() -> None:
    # Airway hyper-responsiveness before and after transplantation (1, 1; 7, 12), 95 %:
    # Fagerland, Lydersen & Laake 2014, Statistics in Medicine 33:2850, asymptotic score interval.
    assert tango(1, 7, 21, alpha=0.025) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_tango_has_its_closed_form_where_nothing_flipped() -> None:
    # b = c = 0: the score at Δ is -sqrt(nΔ / (1 - Δ)), so the bound is z² / (n + z²).
    z = NormalDist().inv_cdf(0.95)
    bound = z * z / (100 + z * z)
    assert tango(0, 0, 100) == pytest.approx((-bound, bound), abs=1e-12)


def slow_score(gained: int, lost: int, n: int, difference: float) -> float:
    """The score from its definition: the restricted maximum searched for, not solved for."""
    low, high = max(0.0, -difference) + 1e-13, (1 - difference) / 2 - 1e-13

    def likelihood(q: float) -> float:
        cells = ((gained, q + difference), (lost, q), (n - gained - lost, 1 - 2 * q - difference))
        return sum(count * math.log(share) for count, share in cells if count)

    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if likelihood(left) > likelihood(right):
            high = right
        else:
            low = left
    q = (low + high) / 2
    return (gained - lost - n * difference) / math.sqrt(n * (2 * q + difference - difference**2))


counts = st.integers(1, 400).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n)).flatmap(
        lambda pair: st.tuples(st.integers(0, pair[1] - pair[0]), st.just(pair[0]), st.just(pair[1]))
    )
)


@settings(max_examples=150, deadline=None)
@given(counts, st.integers(-90, 90).map(lambda points: points / 100))
def test_tango_score_equals_a_slow_likelihood_search(pairs: tuple[int, int, int], difference: float) -> None:
    assert tango_score(*pairs, difference) == pytest.approx(
        slow_score(*pairs, difference), abs=2e-4, rel=2e-4
    )


@settings(max_examples=200, deadline=None)
@given(counts)
def test_tango_brackets_the_observed_difference_and_mirrors(pairs: tuple[int, int, int]) -> None:
    gained, lost, n = pairs
    interval = tango(gained, lost, n)
    mirrored = tango(lost, gained, n)
    assert -1 <= interval.low <= (gained - lost) / n <= interval.high <= 1
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-9)
    assert tango(gained, lost, n, alpha=0.01).low <= interval.low + 1e-12


@settings(max_examples=100, deadline=None)
@given(counts)
def test_tango_narrows_with_more_items(pairs: tuple[int, int, int]) -> None:
    gained, lost, n = pairs
    once, four = tango(gained, lost, n), tango(4 * gained, 4 * lost, 4 * n)
    assert four.high - four.low < once.high - once.low


def test_tango_refuses_impossible_pairs() -> None:
    with pytest.raises(ValueError, match="impossible pairs"):
        tango(3, 3, 5)


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    # Fagerland, Lydersen & Laake 2013, BMC Medical Research Methodology 13:91, table 2 and 5: mid-p 0.039
    [(1, 7, 0.0390625), (7, 1, 0.0390625), (0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.03125)],
)
def test_mcnemars_mid_p(gained: int, lost: int, expected: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(expected)
