"""Critical values, power and numbers of items: against enumeration, simulation and published figures."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stages.statistics.exact import _clopper_pearson, binomial_cdf, critical_value, paired_interval
from stages.statistics.intervals import tango, tango_score
from stages.statistics.power import items_needed, pass_probability, plan

NORMAL = stats.norm.isf(0.05)


def enumerated(n: int, flips: float, difference: float, threshold: float, guarded: bool) -> float:
    """The probability to pass, table by table, from scipy's multinomial."""
    won, lost = (flips + difference) / 2, (flips - difference) / 2
    total = 0.0
    for gained in range(n + 1):
        for losses in range(n - gained + 1):
            chance = stats.multinomial.pmf([gained, losses, n - gained - losses], n, [won, lost, 1 - flips])
            if chance < 1e-12:
                continue
            z = critical_value(gained + losses, n, threshold, 0.05) if guarded else NORMAL
            total += chance * (tango_score(gained, losses, n, threshold) > z)
    return float(total)


@pytest.mark.parametrize(("flips", "difference", "threshold"), [(0.1, 0.0, -0.1), (0.2, 0.1, 0.1)])
def test_the_probability_to_pass_is_that_of_every_table(
    flips: float, difference: float, threshold: float
) -> None:
    exact = pass_probability(40, flips, difference, threshold)
    assert exact == pytest.approx(enumerated(40, flips, difference, threshold, guarded=True), abs=1e-9)


@pytest.mark.parametrize(
    ("n", "flips", "threshold"),
    [(150, 0.03, 0.015), (300, 0.015, 0.01), (100, 0.04, 0.03), (300, 0.02, -0.02), (200, 0.05, 0.0)],
)
def test_few_flips_keep_the_promised_risk(n: int, flips: float, threshold: float) -> None:
    assert pass_probability(n, flips, threshold, threshold) <= 0.0501


def test_without_the_guard_the_risk_is_broken() -> None:
    # 150 items, 3 % flips, claim "better by more than 1.5 points" at exactly 1.5 points
    won, lost = 0.0225, 0.0075
    risk = 0.0
    for gained in range(40):
        for losses in range(40):
            chance = stats.multinomial.pmf([gained, losses, 150 - gained - losses], 150, [won, lost, 0.97])
            risk += chance * (tango_score(gained, losses, 150, 0.015) > NORMAL)
    assert risk == pytest.approx(0.0904, abs=5e-4)


def test_many_flips_need_no_guard() -> None:
    assert critical_value(100, 1000, 0.02, 0.05) == pytest.approx(NORMAL)
    assert paired_interval(60, 60, 1500, -0.02) == pytest.approx(tango(60, 60, 1500))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 12), st.integers(0, 12), st.integers(60, 400), st.sampled_from([-0.05, -0.02, 0.0, 0.02])
)
def test_the_interval_excludes_the_threshold_exactly_where_the_test_rejects(
    gained: int, lost: int, n: int, threshold: float
) -> None:
    interval = paired_interval(gained, lost, n, threshold)
    plain = tango(gained, lost, n)
    assert interval.low <= plain.low + 1e-12
    assert interval.high >= plain.high - 1e-12
    above = tango_score(gained, lost, n, threshold) > critical_value(gained + lost, n, threshold, 0.05)
    assert (interval.low > threshold) == above


# What was published for a margin of 2 points is the normal approximation, (z_α + z_β)² ψ / margin².
@pytest.mark.parametrize(
    ("flips", "published", "power"), [(0.02, 310, 0.66), (0.04, 619, 0.77), (0.08, 1237, 0.79)]
)
def test_the_published_numbers_of_items_fall_short(flips: float, published: int, power: float) -> None:
    z = NORMAL + stats.norm.isf(0.2)
    assert math.ceil(z * z * flips / 0.02**2) == published
    assert pass_probability(published, flips, 0.0, -0.02) == pytest.approx(power, abs=0.01)


@pytest.mark.parametrize(("flips", "items"), [(0.02, 415), (0.04, 686), (0.08, 1268)])
def test_a_plan_has_the_power_that_it_promises(flips: float, items: int) -> None:
    found = plan(flips, 0.0, -0.02)
    assert found is not None
    assert found[0] == items
    assert 0.8 <= found[1] <= 0.83
    rng = random.Random(4)
    passed = 0
    for _ in range(1500):
        discordant = sum(rng.random() < flips for _ in range(items))
        gained = sum(rng.random() < 0.5 for _ in range(discordant))
        passed += paired_interval(gained, discordant - gained, items, -0.02).low > -0.02
    assert passed / 1500 == pytest.approx(found[1], abs=0.03)


def test_a_plan_for_failing_is_the_mirror_of_one_for_passing() -> None:
    assert items_needed(0.1, -0.02, 0.01) == items_needed(0.1, 0.02, -0.01)


def test_no_number_of_items_decides_at_the_threshold() -> None:
    assert items_needed(0.1, 0.02, 0.02) is None
    assert plan(0.1, 0.02, 0.02) is None


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a flip rate of at least that"):
        pass_probability(100, 0.01, 0.02, 0.0)
    with pytest.raises(ValueError, match="impossible pairs"):
        paired_interval(3, 3, 5, 0.0)


@pytest.mark.parametrize(
    ("k", "n", "p"), [(0, 10, 0.1), (9, 10, 0.95), (300, 5000, 0.05), (4, 4, 0.5), (50, 99, 0.6)]
)
def test_binomial_cdf(k: int, n: int, p: float) -> None:
    won, of = Fraction(p).as_integer_ratio()
    lost = of - won
    ways = [lost**n]
    for j in range(k):
        ways.append(ways[-1] * (n - j) * won // ((j + 1) * lost))
    assert binomial_cdf(k, n, p) == pytest.approx(float(Fraction(sum(ways), of**n)), rel=1e-10)


@pytest.mark.parametrize("discordant", [0, 3, 29, 30])
def test_the_confidence_set_of_a_share_is_exact(discordant: int) -> None:
    low, high = _clopper_pearson(discordant, 30, 0.05)
    below = 1 - binomial_cdf(discordant - 1, 30, low) if discordant else low
    above = binomial_cdf(discordant, 30, high) if discordant < 30 else 1 - high
    assert below == pytest.approx(0.025 if discordant else 0.0)
    assert above == pytest.approx(0.025 if discordant < 30 else 0.0)
