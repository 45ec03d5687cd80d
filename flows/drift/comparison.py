"""New rows against reference rows: which of these define the measures, and which are compared."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from flows.drift.evidence import DriftDetector, DriftState, require_risk
from flows.drift.measures import Measures, learn
from flows.errors import Usage

FEWEST = 40
"""Reference rows: half of them define the measures, and the other half is compared."""
MOST = 4000
"""Of more, a choice that depends on the texts alone."""
Learner = Callable[[Sequence[str]], Measures]


class DriftComparison:
    """Takes new rows as they come. The same rows in the same order give the same result.

    `learners` make measures from the first half of `chosen(reference)`; by default those of words.
    """

    def __init__(
        self, reference: Iterable[str], alpha: float = 0.05, learners: Sequence[Learner] = (learn,)
    ) -> None:
        require_risk(alpha)
        texts = chosen(reference)
        learned, compared = texts[: len(texts) // 2], texts[len(texts) // 2 :]
        self._measures = [learner(learned) for learner in learners]
        self.reference = np.array([self.values(text) for text in compared])
        """Numbers of the rows that are compared, [rows, measures]."""
        names = [name for measures in self._measures for name in measures.names]
        self._detector = DriftDetector(names, self.reference.T.tolist(), alpha)
        # the same each time, and others for other reference rows: ties are not broken alike everywhere
        self._lots = random.Random(_lot_of("\n".join(compared)))

    def values(self, text: str) -> list[float]:
        """The numbers of a text, in the order of the measures."""
        return [value for measures in self._measures for value in measures.of(text)]

    def add(self, texts: Iterable[str]) -> None:
        """Take in new rows, in the order in which they came."""
        for text in texts:
            values = enumerate(self.values(text))
            self._detector.add((number, value, self._lots.random()) for number, value in values)

    @property
    def log_es(self) -> tuple[float, ...]:
        """Evidence of each measure by itself now, as natural logarithms."""
        return self._detector.log_es

    @property
    def state(self) -> DriftState:
        """What is known after all rows so far."""
        return self._detector.state


def chosen(reference: Iterable[str]) -> list[str]:
    """The distinct reference rows that a comparison reads. Raises `Usage` where there are too few."""
    texts = sorted(set(reference), key=_lot_of)[:MOST]
    if len(texts) < FEWEST:
        raise Usage(
            f"the training data have {len(texts)} different inputs; drift needs at least {FEWEST} of them"
        )
    return texts


def _lot_of(text: str) -> str:
    """A choice among reference rows that depends on nothing but their texts."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
