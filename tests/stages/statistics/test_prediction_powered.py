"""What people would say of all items, from a judge of all and labels of some."""

from __future__ import annotations

import math
import random

import pytest

from stages.statistics.prediction_powered import (
    CHOSEN,
    FEWEST_LABELS,
    distance_of_labelled,
    labels_needed,
    prediction_powered_mean,
)

Labels = list[float | None]


def judged_and_said(
    n: int, labels: int, bias: float, seed: int = 0, right: float = 1.0
) -> tuple[list[float], Labels]:
    """A judge that adds a win to some of the items that people hold equal, and is else right as often."""
    draw = random.Random(seed)
    said = [draw.choice([1.0, 0.0, 0.0, 0.0, -1.0]) for _ in range(n)]
    judged = []
    for d in said:
        lenient, attentive = draw.random() < bias, draw.random() < right
        judged.append(1.0 if d == 0 and lenient else d if attentive else draw.choice([1.0, 0.0, -1.0]))
    known: Labels = [None] * n
    for item in draw.sample(range(n), labels):
        known[item] = said[item]
    return judged, known


def test_the_figures_of_a_small_example() -> None:
    """By hand: the judge's weight is cov / (var · (1 + 4/4))."""
    judged = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    labels: Labels = [1.0, 0.0, 0.0, 0.0, None, None, None, None]
    mean = prediction_powered_mean(judged, labels, range(8))
    covariance = (0.75 * 0.5 + 0.25 * 0.5 - 0.25 * 0.5 + 0.25 * 0.5) / 3
    weight = covariance / (8 * 0.25 / 7) / 2
    assert mean.weight == pytest.approx(weight)
    assert mean.value == pytest.approx(weight * 0.5 + (0.25 - weight * 0.5))
    assert (mean.n, mean.labels, mean.groups) == (8, 4, 4)
    assert mean.judged == 0.5
    assert mean.bias == pytest.approx(0.25)
    errors = [1 - weight, 0.0, -weight, 0.0]
    centre = sum(errors) / 4
    squares = sum(((e - centre) / 4) ** 2 for e in errors) + 4 * (weight * 0.5 / 4) ** 2
    assert mean.error == pytest.approx(math.sqrt(4 / 3 * squares))


def test_a_biased_judge_is_corrected() -> None:
    judged, labels = judged_and_said(2000, 400, bias=0.3)
    mean = prediction_powered_mean(judged, labels, range(2000))
    assert mean.judged > 0.12
    assert mean.bias > 0.1
    assert abs(mean.value) < 3.5 * mean.error, "people find no difference"
    assert mean.low < mean.value < mean.high


def test_a_good_judge_narrows_the_interval_and_one_that_guesses_does_not_widen_it() -> None:
    good, labels = judged_and_said(2000, 200, bias=0.0, right=0.95)
    with_judge = prediction_powered_mean(good, labels, range(2000))
    alone = prediction_powered_mean([0.0] * 2000, labels, range(2000))
    assert with_judge.weight > 0.7
    assert with_judge.high - with_judge.low < 0.7 * (alone.high - alone.low)
    guesses = [random.Random(3).choice([1.0, 0.0, -1.0]) for _ in range(2000)]
    guessed = prediction_powered_mean(guesses, labels, range(2000))
    assert guessed.weight < 0.2
    assert guessed.high - guessed.low < 1.05 * (alone.high - alone.low)


def test_with_all_items_labelled_people_alone_count() -> None:
    labels: Labels = [1.0, 0.0, 0.0, -1.0] * 30
    mean = prediction_powered_mean([1.0] * 120, labels, range(120))
    assert (mean.value, mean.weight, mean.bias) == (0.0, 0.0, 1.0)


def test_a_judge_that_agrees_with_all_labels_is_not_taken_for_perfect() -> None:
    judged = [1.0] * 20 + [0.0] * 980
    labels: Labels = [*judged[::20], *[None] * 950]
    judged = [float(label) for label in labels if label is not None] + judged[50:]
    mean = prediction_powered_mean(judged, labels, range(1000))
    assert mean.bias == 0
    assert mean.low < mean.value - 0.03, "as many as 1 in 17 may be wrong where 50 agree"


def test_items_of_one_chat_count_as_one() -> None:
    judged, labels = judged_and_said(200, 60, bias=0.1)
    wide = prediction_powered_mean(judged * 3, labels * 3, [i % 200 for i in range(600)])
    narrow = prediction_powered_mean(judged * 3, labels * 3, range(600))
    assert wide.value == pytest.approx(narrow.value)
    assert wide.groups == 60
    assert wide.error > 1.6 * narrow.error


def test_the_bounds_turn_with_the_sign() -> None:
    judged, labels = judged_and_said(500, 100, bias=0.2)
    one = prediction_powered_mean(judged, labels, range(500))
    other = prediction_powered_mean(
        [-d for d in judged], [None if d is None else -d for d in labels], range(500)
    )
    assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low))


def test_labels_in_one_cluster_have_no_spread() -> None:
    with pytest.raises(ValueError, match="at least two clusters"):
        prediction_powered_mean([1.0, 0.0], [1.0, None], range(2))


def test_how_many_labels_would_do() -> None:
    judged, labels = judged_and_said(5000, 100, bias=0.2)
    mean = prediction_powered_mean(judged, labels, range(5000))
    near, far = (labels_needed(mean, mean.value - gap) for gap in (0.02, 0.5))
    assert near is not None
    assert near > 1000
    assert far == FEWEST_LABELS
    assert labels_needed(mean, mean.value) is None


def test_labels_that_were_chosen_are_noticed() -> None:
    judged, labels = judged_and_said(1000, 200, bias=0.2)
    assert distance_of_labelled(judged, labels, range(1000)) < CHOSEN
    where_lost: Labels = [d if d < 0 else None for d in judged]
    assert distance_of_labelled(judged, where_lost, range(1000)) > CHOSEN
    assert distance_of_labelled(judged, [None] * 1000, range(1000)) == 0
    assert distance_of_labelled([0.0, 0.0], [0.0, None], range(2)) == 0
