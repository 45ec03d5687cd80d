"""What one answer scores, and the function that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stages.statistics.corpus import Figure

Counts = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class ItemScore:
    """`scores`: by name. `counts`: what figures of all items together are computed from, by name."""

    scores: Mapping[str, float] = field(default_factory=dict)
    counts: Counts = field(default_factory=dict)


ScoreItem = Callable[[str, Sequence[str]], ItemScore]
"""(answer, references) → what it scores. With several references the best one counts."""


class CorpusMetric(NamedTuple):
    """A figure of all items together, and the counts that it is computed from."""

    figure: Figure
    counts: str


@dataclass(frozen=True)
class ReadyMetric:
    """A metric that is ready to score: its function, the units of its scores, its figures of all items."""

    score: ScoreItem
    units: Mapping[str, str]
    corpus: Mapping[str, CorpusMetric] = field(default_factory=dict)


def single(name: str, function: Callable[[str, Sequence[str]], float], unit: str = "share") -> ReadyMetric:
    """A metric with one score per item."""
    return ReadyMetric(
        lambda answer, references: ItemScore({name: function(answer, references)}), {name: unit}
    )
