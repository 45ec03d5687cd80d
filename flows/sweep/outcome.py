"""All that a sweep came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.sweep.record import Ending
from registry import Artifact
from registry.evaluation_results import Metric


@dataclass(frozen=True)
class Trial:
    """One trial. `losses`: of its validations, counted from 1; `loss`: that of the adapter that was kept.

    `score`, `adapter` and `evaluation`: of one that was measured; `note`: what ended any other.
    """

    number: int
    values: Mapping[str, Any]
    ending: Ending
    losses: Mapping[int, float] = field(default_factory=dict)
    loss: float | None = None
    score: Metric | None = None
    adapter: Artifact | None = None
    evaluation: Artifact | None = None
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """By how much the best trial's score is above another model's on the same rows, with two one-sided bounds
    at `alpha` each, and whether that shows it to be better. `why`: what keeps the two from being compared."""

    effect: float | None
    low: float | None = None
    high: float | None = None
    alpha: float = 0.0
    n: int = 0
    binary: bool = True
    told_apart: bool = False
    why: str = ""


@dataclass(frozen=True)
class Lead:
    """How far the best trial is ahead: of each other whole trial that has another adapter, the best first,
    with the risk shared among them; and of the base as it is, at the whole risk."""

    others: Mapping[int, Difference]
    base: Difference | None = None

    @property
    def told_apart(self) -> int:
        """How many of the others have been shown to be worse."""
        return sum(difference.told_apart for difference in self.others.values())


@dataclass
class SweepOutcome:
    """What exists so far; a sweep that was interrupted has less. `comparable`: whether validation losses of
    two trials can be compared."""

    name: str
    asked: str
    metric: str
    trials_asked: int
    comparable: bool = True
    folder: Path | None = None
    base: Artifact | None = None
    dataset: Artifact | None = None
    untuned: Metric | None = None
    untuned_evaluation: Artifact | None = None
    trials: list[Trial] = field(default_factory=list)
    lead: Lead | None = None

    @property
    def whole(self) -> list[Trial]:
        """Trials that were trained whole and measured, the best first.

        Of equal scores the lower validation loss comes first, where losses can be compared; then the earlier
        trial.
        """
        whole = [trial for trial in self.trials if trial.score is not None]
        return sorted(whole, key=self._rank)

    @property
    def best(self) -> Trial | None:
        """The trial that is chosen; None where none was measured."""
        return next(iter(self.whole), None)

    def count(self, ending: Ending) -> int:
        """How many trials ended so."""
        return sum(trial.ending == ending for trial in self.trials)

    def _rank(self, trial: Trial) -> tuple[float, float, int]:
        assert trial.score is not None
        loss = trial.loss if trial.loss is not None and self.comparable else 0.0
        return -trial.score["value"], loss, trial.number
