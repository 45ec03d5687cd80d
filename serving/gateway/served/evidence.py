"""Answers as recorded or otherwise, one after the other: has the share of the recorded ones fallen too low?

The claim is "each question is answered otherwise with a probability of at most `tolerated`". A bet on a
larger probability q multiplies its stake by q / tolerated for an answer otherwise and by (1 - q) /
(1 - tolerated) for one as recorded: while the claim is true it does not grow in expectation. With each
question a new bet begins, the one of question n with a stake of 1 / (n (n + 1)); what has not begun yet is
kept, so that all is 1 at first and never grows in expectation. It ever reaches 1/α with a probability of at
most α (Ville 1939), for ever; and a fault that comes late is met by a bet that has lost nothing to the good
answers before (e-processes that begin at different times, in one mixture; cf. Shin, Ramdas & Rinaldo,
E-detectors, arXiv 2203.03532).

Several engines and adapters share one risk: the k-th to be asked alarms at k (k + 1) / α, so that all
together ever alarm falsely with a probability of at most α, however many come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BETS = (0.15, 0.3, 0.6, 0.95)
"""Alternatives, from the tolerated probability (0) to certainty (1); each has an equal part of the stake."""
MOST = 1e280
"""Evidence is not counted further: it would overflow, and less of it is never wrong."""
CERTAIN = 100.0
"""So many times rarer than a false alarm is it that a sound engine is taken out."""

Array = NDArray[Any]


@dataclass
class AnswerEvidence:
    """Of one engine's answers in one name, or of `runs` of them, for a simulation; all shapes are [runs]."""

    least: float
    """The share of answers that has to be as recorded; between 0 and 1."""
    number: int = 1
    """Among all that share the risk: 1, 2, 3, …"""
    runs: int = 1
    asked: int = 0
    otherwise: Array = field(init=False)
    _stakes: Array = field(init=False)

    def __post_init__(self) -> None:
        tolerated = 1 - self.least
        bets = tolerated + self.least * np.asarray(BETS)
        self._otherwise, self._recorded = bets / tolerated, (1 - bets) / self.least
        self.otherwise = np.zeros(self.runs, dtype=int)
        self._stakes = np.zeros((self.runs, len(BETS)))

    def add(self, otherwise: Any) -> None:
        """Take in the answer to one question of each run: whether it was another one than is recorded."""
        self.asked += 1
        self.otherwise += np.asarray(otherwise)
        factors = np.where(np.atleast_1d(otherwise)[:, None], self._otherwise, self._recorded)
        stakes = (self._stakes + 1 / (self.asked * (self.asked + 1))) * factors
        self._stakes = np.minimum(stakes, MOST)

    @property
    def e(self) -> Array:
        """The e-values."""
        e: Array = self._stakes.mean(axis=1) + 1 / (self.asked + 1)
        return e

    def alarms(self, alpha: float) -> Array:
        """Whether it is shown, at a risk of `alpha` for all that share it together."""
        shown: Array = self.e >= self.number * (self.number + 1) / alpha
        return shown
