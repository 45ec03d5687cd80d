"""Evidence that answers are no longer the recorded ones: never too often, soon where it is so, for ever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from serving.gateway.served.evidence import AnswerEvidence
from tests.bench.served_answers import first_alarms


@pytest.mark.parametrize(("least", "worse"), [(0.8, 0.2), (0.5, 0.5), (0.95, 0.05), (0.8, 0.1), (0.8, 0.0)])
def test_while_the_claim_is_true_it_does_not_grow_in_expectation(least: float, worse: float) -> None:
    """Over every sequence of 10 answers, each with its probability, computed and not drawn."""
    sequences = np.array(list(itertools.product((False, True), repeat=10)))
    chances = np.where(sequences, worse, 1 - worse)
    evidence = AnswerEvidence(least, runs=len(sequences))
    expectations = [1.0]
    for number in range(10):
        evidence.add(sequences[:, number])
        expectations.append(float((evidence.e * chances.prod(axis=1)).sum()))
    exact = worse == pytest.approx(1 - least)
    for before, after in itertools.pairwise(expectations):
        assert after == pytest.approx(before) if exact else after < before


def test_sound_engines_alarm_no_oftener_than_stated() -> None:
    """Exactly at the limit, the worst that is sound, and looked at after each of 2,000 questions."""
    assert (first_alarms(0.8, 2000, 2000, seed=5) > 0).mean() <= 0.01
    assert not (first_alarms(0.97, 2000, 2000, seed=6) > 0).any()


@pytest.mark.parametrize(
    ("share", "sound", "within"), [(0, 0, 5), (0.5, 0, 60), (0, 1000, 13), (0.5, 1000, 130)]
)
def test_a_fault_is_found_also_after_a_thousand_good_answers(share: float, sound: int, within: int) -> None:
    alarmed = first_alarms(share, 300, 400, seed=7, sound=sound)
    assert ((alarmed > 0) & (alarmed <= within)).mean() >= 0.95


def test_all_who_are_asked_share_one_risk() -> None:
    """The k-th alarms at k (k + 1) / α: over all k, 1 / (k (k + 1)) of the risk makes the whole of it."""
    for number in (1, 2, 40):
        evidence = AnswerEvidence(0.8, number)
        while not evidence.alarms(0.01)[0]:
            before = evidence.e[0]
            evidence.add(True)
        assert before < number * (number + 1) / 0.01 <= evidence.e[0]


def test_it_stays_a_number_for_ever() -> None:
    evidence = AnswerEvidence(0.99)
    for _ in range(2000):
        evidence.add(True)
    assert np.isfinite(evidence.e).all()
    assert evidence.alarms(1e-9)[0]
    assert (evidence.asked, evidence.otherwise[0]) == (2000, 2000)
