"""What several measures say together: an e-value for each, one for all, and a verdict at any time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from flows.errors import Usage
from flows.gates.policy import FiniteRecord
from stages.statistics.conformal import Martingale

Verdict = Literal["drift", "no drift shown"]


class MeasureDrift(FiniteRecord):
    """One measure. `reference` and `new` are its means, over so many rows."""

    measure: str
    reference: float
    new: float
    reference_rows: int
    rows: int
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

    @property
    def strongest(self) -> MeasureDrift:
        """The measure with the highest e-value so far."""
        return max(self.measures, key=lambda measure: measure.highest_log10_e)


class DriftDetector:
    """Takes the numbers of new rows as they come. `references`: the numbers of each measure's own rows.

    Raises `Usage` for an `alpha` that is no risk.
    """

    def __init__(self, names: Sequence[str], references: Sequence[Sequence[float]], alpha: float) -> None:
        require_risk(alpha)
        self._names = tuple(names)
        self._martingales = [Martingale(values) for values in references]
        self._alpha = alpha
        self._references = [(float(np.mean(values)), len(values)) for values in references]
        self._sums = [0.0] * len(self._names)
        self._counts = [0] * len(self._names)
        self._highest = [0.0] * len(self._names)
        self._rows, self._most = 0, 0.0
        self._first: int | None = None

    def add(self, row: Iterable[tuple[int, float, float]]) -> None:
        """One row: for each measure that it has (by number), its value, and a lot from 0 to 1 for ties."""
        for number, value, lot in row:
            martingale = self._martingales[number]
            martingale.add(value, lot)
            self._highest[number] = max(self._highest[number], martingale.log_e)
            self._sums[number] += value
            self._counts[number] += 1
        self._rows += 1
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
        return max(self.log_es) - math.log(len(self._martingales))

    @property
    def log_es(self) -> tuple[float, ...]:
        """Of each measure by itself."""
        return tuple(martingale.log_e for martingale in self._martingales)

    @property
    def state(self) -> DriftState:
        return DriftState(
            rows=self._rows,
            reference_rows=max(rows for _, rows in self._references),
            alpha=self._alpha,
            verdict="no drift shown" if self._first is None else "drift",
            first_row=self._first,
            log10_e=_log10(self.log_e),
            highest_log10_e=_log10(self._most),
            measures=tuple(
                MeasureDrift(
                    measure=name,
                    reference=round(self._references[number][0], 4),
                    new=round(self._sums[number] / max(self._counts[number], 1), 4),
                    reference_rows=self._references[number][1],
                    rows=self._counts[number],
                    log10_e=_log10(self._martingales[number].log_e),
                    highest_log10_e=_log10(self._highest[number]),
                )
                for number, name in enumerate(self._names)
            ),
        )


def require_risk(alpha: float) -> None:
    """Raises `Usage` unless it is a risk between 0 and 1."""
    if not 0 < alpha < 1:
        raise Usage(f"--alpha {alpha:g} is not a risk: expected a number between 0 and 1, for example 0.05")


def _log10(natural: float) -> float:
    return round(natural / math.log(10), 4)
