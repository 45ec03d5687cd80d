"""New rows against reference rows: an e-value for each measure, one for all, and a verdict at any time."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from flows.drift.measures import learn
from flows.errors import Usage
from flows.gates.policy import FiniteRecord
from stages.statistics.conformal import Martingale

FEWEST = 40
"""Reference rows: half of them define the measures, and the other half is compared."""
MOST = 4000
"""Of more, a choice that depends on the texts alone."""
Verdict = Literal["drift", "no drift shown"]


class MeasureDrift(FiniteRecord):
    """One measure. `reference` and `new` are its means."""

    measure: str
    reference: float
    new: float
    log10_e: float = Field(description="evidence of a change now, as a logarithm")
    highest_log10_e: float


class DriftState(FiniteRecord):
    """What is known after all rows so far."""

    rows: int
    reference_rows: int
    alpha: float = Field(
        description="risk of ever saying drift, however often one looks, while there is none"
    )
    verdict: Verdict
    first_row: int | None = Field(description="the new row, from 1, at which drift was first shown")
    log10_e: float
    highest_log10_e: float
    measures: tuple[MeasureDrift, ...]


class DriftComparison:
    """Takes new rows as they come. The same rows in the same order give the same result."""

    def __init__(self, reference: Sequence[str], alpha: float = 0.05) -> None:
        if not 0 < alpha < 1:
            raise Usage(f"a risk of {alpha:g} is none: expected a number between 0 and 1, for example 0.05")
        texts = sorted(set(reference), key=_lot_of)[:MOST]
        if len(texts) < FEWEST:
            raise Usage(
                f"the training data have {len(texts)} different inputs; drift needs at least {FEWEST} of them"
            )
        learned, compared = texts[: len(texts) // 2], texts[len(texts) // 2 :]
        self._measures = learn(learned)
        self._reference = np.array([self._measures.of(text) for text in compared])
        self._martingales = [Martingale(column) for column in self._reference.T]
        self._alpha = alpha
        # the same each time, and others for other reference rows: ties are not broken alike everywhere
        self._lots = random.Random(_lot_of("\n".join(compared)))
        self._sums = np.zeros(len(self._martingales))
        self._highest = [0.0] * len(self._martingales)
        self._rows, self._first, self._most = 0, None, 0.0

    _first: int | None

    def add(self, texts: Iterable[str]) -> None:
        """Take in new rows, in the order in which they came."""
        for text in texts:
            values = self._measures.of(text)
            for number, (martingale, value) in enumerate(zip(self._martingales, values, strict=True)):
                martingale.add(value, self._lots.random())
                self._highest[number] = max(self._highest[number], martingale.log_e)
            self._rows += 1
            self._sums += values
            self._most = max(self._most, self.log_e)
            if self._first is None and self.log_e >= -math.log(self._alpha):
                self._first = self._rows

    @property
    def log_e(self) -> float:
        """Of all measures together: the largest e-value, divided by their number (a union bound).

        Their mean is an e-value as well, but only at a time that was set before: each capital is a martingale
        as seen from its own ranks, and the ranks of the other measures tell a little about the next one. So
        nothing bounds how often the mean *ever* exceeds a limit (Choe & Ramdas 2024, arXiv:2402.09698).
        """
        largest = max(martingale.log_e for martingale in self._martingales)
        return largest - math.log(len(self._martingales))

    @property
    def state(self) -> DriftState:
        means = self._reference.mean(axis=0), self._sums / max(self._rows, 1)
        return DriftState(
            rows=self._rows,
            reference_rows=len(self._reference),
            alpha=self._alpha,
            verdict="no drift shown" if self._first is None else "drift",
            first_row=self._first,
            log10_e=_log10(self.log_e),
            highest_log10_e=_log10(self._most),
            measures=tuple(
                MeasureDrift(
                    measure=name,
                    reference=round(float(means[0][number]), 4),
                    new=round(float(means[1][number]), 4),
                    log10_e=_log10(self._martingales[number].log_e),
                    highest_log10_e=_log10(self._highest[number]),
                )
                for number, name in enumerate(self._measures.names)
            ),
        )


def _lot_of(text: str) -> str:
    """A choice among reference rows that depends on nothing but their texts."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _log10(natural: float) -> float:
    return round(natural / math.log(10), 4)
