"""When a canary has shown that it does no harm, when that it does, and how far the two are apart.

Each guardrail counts bad answers of both streams. Harm is shown once it is shown of one guardrail that the
canary is worse at all, at α over the number of guardrails (Bonferroni); safety, once it is shown of every
guardrail that the canary is worse by less than its margin, each at α: all must hold, so no correction is
needed (an intersection-union test, Berger 1982, Technometrics 24:295). Both hold at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stages.statistics.intervals import Interval
from stages.statistics.sequential import Array, Block, Difference

Shown = Literal["harm", "safe", "neither"]
HARM_STEPS = (0.01, 0.03, 0.1, 0.3)
"""By how much worse a canary is supposed to be, in bets on harm."""
SAFE_STEPS = (0.5, 0.8, 1.0, 1.5)
"""In margins below the margin, in bets on safety: 1 is a canary that is just as good."""
_BETS = (0.01, 0.03, 0.1, 0.3)
_GRID = 401


@dataclass
class Guardrail:
    """The evidence about one kind of bad answer: of harm, and of its absence; for all runs at once."""

    margin: float
    runs: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ValueError(f"a margin of {self.margin:g} is not a share; 0.01 is one answer in a hundred")
        steps = [self.margin * step for step in SAFE_STEPS]
        self.harm = Difference(np.zeros(self.runs), worse=True, steps=HARM_STEPS)
        self.safe = Difference(np.full(self.runs, self.margin), worse=False, steps=steps)

    def add(self, counts: Block) -> None:
        """Take in one block."""
        self.harm.add(counts)
        self.safe.add(counts)

    def keep(self, runs: Any) -> None:
        """Go on with these runs only."""
        self.harm.keep(runs)
        self.safe.keep(runs)


def harmed(guardrails: Sequence[Guardrail], alpha: float) -> Array:
    """Of each run [runs], whether harm is shown; of a canary that is no worse: ever, at most `alpha`."""
    limit = np.log(len(guardrails) / alpha)
    return np.any([guardrail.harm.log_e >= limit for guardrail in guardrails], axis=0)


def safe(guardrails: Sequence[Guardrail], alpha: float) -> Array:
    """Of each run, whether safety is shown; of a canary beyond a margin: ever, at most `alpha`."""
    return np.all([guardrail.safe.log_e >= -np.log(alpha) for guardrail in guardrails], axis=0)


def shown(guardrails: Sequence[Guardrail], harm_alpha: float, alpha: float) -> Shown:
    """What a single run has shown so far; harm counts first."""
    if harmed(guardrails, harm_alpha)[0]:
        return "harm"
    return "safe" if safe(guardrails, alpha)[0] else "neither"


def confidence_sequence(blocks: Iterable[Block], alpha: float) -> Interval:
    """Where the canary's rate minus the live rate lies; each end holds at 1 - alpha, at all times at once.

    Of 401 differences between -1 and 1, closest together around 0, those that are not rejected.
    """
    line = np.linspace(-1.0, 1.0, _GRID)
    grid = np.sign(line) * line**2
    low = Difference(grid, worse=True, steps=_BETS)
    high = Difference(grid, worse=False, steps=_BETS)
    below, above = np.zeros(_GRID, dtype=bool), np.zeros(_GRID, dtype=bool)
    for counts in blocks:
        wide = Block(*(np.broadcast_to(column, grid.shape) for column in counts))
        low.add(wide)
        high.add(wide)
        # one once rejected stays rejected: the risk is that of ever being wrong
        below |= low.log_e >= -np.log(alpha)
        above |= high.log_e >= -np.log(alpha)
    return Interval(_end(grid, below), _end(grid[::-1], above[::-1]))


def _end(grid: Array, rejected: Array) -> float:
    """The last difference before the first that is not rejected: an end that passes no gap is wrong only
    where the nearest of the true claims was rejected, and not where any of them was.
    """
    passed = len(grid) if rejected.all() else int(np.argmin(rejected))
    return float(grid[max(passed - 1, 0)])
