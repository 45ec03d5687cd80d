"""Figures of all items together: their values, and intervals that keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from stages.statistics.corpus import corpus_difference, corpus_interval, each_of, value_of

Items = list[tuple[float, ...]]


def extraction(random: np.random.Generator, items: int, right: float) -> Items:
    """Items of 1 to 8 expected values; each is found with a chance of its item's own around `right`."""
    found: Items = []
    for expected in random.integers(1, 9, size=items):
        chance = random.beta(4 * right, 4 * (1 - right))
        matched = random.binomial(expected, chance)
        predicted = matched + random.binomial(expected - matched, 0.5) + random.binomial(1, 0.1)
        found.append((float(matched), float(predicted), float(expected)))
    return found


def test_precision_recall_and_f1_of_summed_counts() -> None:
    items: Items = [(1, 2, 4), (3, 4, 4)]
    assert value_of("precision", items) == 4 / 6
    assert value_of("recall", items) == 4 / 8
    assert value_of("f1", items) == 8 / 14
    assert each_of("f1", items) == [2 / 6, 6 / 8]


def test_nothing_predicted_is_no_precision() -> None:
    assert [value_of(figure, [(0, 0, 3)]) for figure in ("precision", "recall", "f1")] == [0, 0, 0]


def test_another_number_of_counts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bleu needs 10 counts, found 3"):
        value_of("bleu", [(1, 2, 3)])


def test_the_same_items_give_the_same_interval_in_any_process() -> None:
    items = extraction(np.random.default_rng(1), 200, 0.7)
    names = [str(i) for i in range(200)]
    assert corpus_interval("f1", items, names) == corpus_interval("f1", items, names)
    low, high, how = corpus_interval("f1", items, names)
    assert low < value_of("f1", items) < high
    assert how == "bootstrap"


def test_a_figure_of_all_right_items_has_an_interval_too() -> None:
    assert corpus_interval("f1", [(2, 2, 2)] * 50, range(50)) == (
        pytest.approx(0.9287, abs=1e-4),
        1.0,
        "wilson",
    )


def test_items_of_one_cluster_say_less() -> None:
    items = extraction(np.random.default_rng(2), 60, 0.7)
    alone = corpus_interval("f1", items * 4, range(240))
    together = corpus_interval("f1", items * 4, [i % 60 for i in range(240)])
    assert together[1] - together[0] > 1.7 * (alone[1] - alone[0])


def test_a_spread_needs_two_clusters() -> None:
    with pytest.raises(ValueError, match=r"at least two clusters, found 1"):
        corpus_difference("f1", [(1, 1, 1)], [(0, 1, 1)], ["a"])


def test_equal_sides_do_not_differ() -> None:
    items = extraction(np.random.default_rng(3), 50, 0.7)
    found = corpus_difference("f1", items, items, range(50))
    assert (found.value, found.error, found.moved) == (0.0, 0.0, 0)
    assert -found.low == found.high == pytest.approx(1 - 0.05 ** (1 / 50)), "what is rare was not seen"


def test_what_is_alike_in_every_item_is_not_certain() -> None:
    found = corpus_difference("f1", [(2, 2, 2)] * 120, [(0, 0, 2)] * 120, range(120))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.9507, abs=1e-4)


def test_the_bounds_of_a_difference_keep_their_risk() -> None:
    """200 pairs of 100 items from a known population: each bound is wrong in about 5 % of them."""
    random = np.random.default_rng(4)
    ours, theirs = extraction(random, 20_000, 0.75), extraction(random, 20_000, 0.7)
    true = value_of("f1", ours) - value_of("f1", theirs)
    missed = [0, 0]
    for _ in range(200):
        drawn = random.integers(0, 20_000, size=100)
        found = corpus_difference("f1", [ours[i] for i in drawn], [theirs[i] for i in drawn], range(100))
        missed[0] += found.low > true
        missed[1] += found.high < true
    assert all(0.015 <= count / 200 <= 0.1 for count in missed), missed
