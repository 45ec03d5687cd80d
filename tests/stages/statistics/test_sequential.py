"""E-processes for two streams: exact on one block, by simulation over many, and what a canary's test says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from stages.statistics.canary import Guardrail, confidence_sequence, safe, shown
from stages.statistics.sequential import Block, Difference, block
from tests.bench import canaries


@pytest.mark.parametrize("worse", [True, False])
@pytest.mark.parametrize("bound", [-0.03, 0.0, 0.02])
def test_a_blocks_factor_has_an_expectation_of_at_most_one_wherever_the_claim_is_true(worse, bound):
    live_items, tried = 12, 7
    table = [(low, high) for low in range(live_items + 1) for high in range(tried + 1)]
    low, high = np.array(table, dtype=float).T
    runs = len(table)
    test = Difference(np.full(runs, bound), worse, steps=(0.01, 0.05, 0.3))
    test.add(block(200, 8, 40, 3, runs))  # what the alternatives are chosen from
    before = np.exp(test.log_e)
    test.add(Block(np.full(runs, live_items), low, np.full(runs, tried), high))
    factor = np.exp(test.log_e) / before
    assert factor.max() > 1.5  # something is bet
    grid = np.linspace(0, 1, 41)
    for live_rate in grid:
        for rate in grid:
            if (rate - live_rate - bound) * (1 if worse else -1) <= 1e-12:
                chances = binom.pmf(low, live_items, live_rate) * binom.pmf(high, tried, rate)
                assert chances @ factor <= 1 + 1e-9, (live_rate, rate)


def test_blocks_of_one_stream_alone_say_nothing():
    test = Difference(np.zeros(1), worse=True, steps=(0.1,))
    test.add(block(100, 5, 20, 1))
    before = test.log_e.copy()
    test.add(block(30, 9, 0, 0))
    test.add(block(0, 0, 0, 0))
    assert test.log_e == pytest.approx(before, abs=1e-9)


def test_nothing_is_bet_before_the_live_rate_is_known():
    test = Difference(np.zeros(1), worse=True, steps=(0.1,))
    test.add(block(49, 0, 40, 40))
    assert test.log_e == pytest.approx(0.0)


@pytest.mark.parametrize("counts", [(5, 6, 1, 0), (5, -1, 1, 0), (5, 1, 1, 2)])
def test_impossible_blocks_are_refused(counts):
    with pytest.raises(ValueError, match="impossible block"):
        block(*counts)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_a_margin_is_a_share(margin):
    with pytest.raises(ValueError, match="is not a share"):
        Guardrail(margin)


def test_simulated_canaries_keep_the_risk_and_find_harm_soon():
    rows = {row["candidate"]: row for row in canaries.measure(400) if row["way"] == "sequential"}
    # 400 canaries at a true risk of 5 % exceed 7.5 % in 2 % of cases; the seeds are fixed
    assert rows["worse by the margin"]["promoted"] <= 0.05
    assert rows["as good"]["stopped"] <= 0.05
    assert rows["as good"]["promoted"] >= 0.95
    assert rows["5 points worse"]["stopped"] >= 0.99
    assert rows["5 points worse"]["stopped_after_p90"] <= 400
    assert rows["20 points worse"]["stopped_after_p90"] <= 150


def test_the_live_rate_may_change_while_the_canary_runs():
    """An outage of what both sides share is nobody's fault: the claim is about each block."""
    draw = np.random.default_rng(5)
    guardrail = Guardrail(0.02, 200)
    ever = np.zeros(200, dtype=bool)
    for look in range(60):
        rate = 0.4 if 20 <= look < 30 else 0.01
        sizes = np.full(200, 90.0), np.full(200, 10.0)
        counts = Block(sizes[0], draw.binomial(90, rate, 200), sizes[1], draw.binomial(10, rate, 200))
        guardrail.add(counts)
        ever |= guardrail.harm.log_e >= np.log(20)
    assert ever.mean() <= 0.05


def test_one_bad_guardrail_of_two_is_harm_and_safety_needs_both():
    good, bad = Guardrail(0.05), Guardrail(0.05)
    for _ in range(30):
        good.add(block(450, 4, 50, 0))
        bad.add(block(450, 4, 50, 15))
    assert shown([good], 0.05, 0.05) == "safe"
    assert shown([good, bad], 0.05, 0.05) == "harm"
    assert not safe([good, bad], 0.05)[0]
    assert shown([Guardrail(0.05)], 0.05, 0.05) == "neither"


def test_a_confidence_sequence_holds_the_difference_at_all_times_and_narrows():
    draw = np.random.default_rng(11)
    for true in (0.0, 0.1):
        blocks = [block(180, draw.binomial(180, 0.05), 20, draw.binomial(20, 0.05 + true)) for _ in range(60)]
        whole, part = (confidence_sequence(some, 0.025) for some in (blocks, blocks[:15]))
        assert part.low <= whole.low <= true <= whole.high <= part.high
        assert whole.high - whole.low < 0.13


def test_five_guardrails_share_one_risk_of_harm_and_each_has_to_be_shown():
    assert (canaries.five(200, None, 1).verdicts < 0).mean() <= 0.05
    for worse in ("not JSON", "disliked"):
        assert (canaries.five(200, worse, 2).verdicts > 0).mean() <= 0.05
