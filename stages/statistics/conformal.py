"""Whether rows still come from where the reference rows came from, asked after each row, for ever.

A conformal test martingale (Vovk, Nouretdinov & Gammerman 2003, ICML): each row's rank among the reference
rows and the rows before it is uniform as long as all of them are exchangeable, whatever their distribution
is; ties are broken at random. Bets are made against that. While nothing has changed, the capital is a
martingale that begins at 1, so it ever reaches 1/α with a probability of at most α (Ville 1939). Several bets
run side by side and exchange a little capital at each row, so that a change that comes late is found as well
as an early one (the Simple Jumper of Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman 2021, PMLR
152:191).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

import numpy as np

_SLOPES = (-1.9, -1.2, -0.6, 0.6, 1.2, 1.9)
"""Bets that ranks are low, or high: 1 + slope · (p - 1/2)."""
_BOWLS = (-0.45, 0.9)
"""Bets that they are in the middle, or at both ends: 1 + bowl · (12 (p - 1/2)² - 1)."""
JUMP = 0.01
"""Share of the capital that is spread anew over all bets at each row."""


class Martingale:
    """The capital of one score. `reference`: scores of rows that were used for nothing else."""

    def __init__(self, reference: Iterable[float]) -> None:
        self._seen = sorted(reference)
        if len(self._seen) < 2:
            raise ValueError(f"a rank needs at least two reference rows, found {len(self._seen)}")
        bets = 1 + len(_SLOPES) + len(_BOWLS)
        self._shares = np.full(bets, 1 / bets)
        self.log_e = 0.0
        """Natural logarithm of the capital now."""

    def add(self, score: float, lot: float) -> float:
        """Take in a row; `lot` is a number from 0 to 1 drawn for it. Returns its p-value."""
        below, upto = bisect_left(self._seen, score), bisect_right(self._seen, score)
        p = (len(self._seen) - upto + lot * (upto - below + 1)) / (len(self._seen) + 1)
        insort(self._seen, score)
        shares = (1 - JUMP) * self._shares + JUMP / len(self._shares)
        won = shares * _payoffs(p)
        total = float(won.sum())
        self._shares = won / total
        self.log_e += float(np.log(total))
        return p


def _payoffs(p: float) -> np.ndarray:
    """What one unit of each bet becomes; each has mean 1 over p."""
    middle = p - 0.5
    bowl = 12 * middle * middle - 1
    return np.array([1.0, *(1 + k * middle for k in _SLOPES), *(1 + k * bowl for k in _BOWLS)])
