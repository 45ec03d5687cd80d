"""What a run came to: the facts that its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from flows.formatting import VERDICTS
from flows.report.lineage_picture import LineageEdge, LineageNode
from flows.run.stage_row import StageRow, State


@dataclass(frozen=True)
class Score:
    """A measured value with its 95% interval over `n` items; a share is written in per cent.

    `unit`: `share`, `number`, or the words that follow the figure: `of 100`, `words`.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str = "share"

    @property
    def is_share(self) -> bool:
        """Whether this is a share; a perplexity given without its unit is not written as 1,200%."""
        return self.unit == "share" and 0 <= self.low <= self.high <= 1

    def __str__(self) -> str:
        if self.is_share:
            return f"{self.value:.1%} ({100 * self.low:.1f}–{100 * self.high:.1f})"
        unit = f" {self.unit}" if self.unit not in ("share", "number") else ""
        return f"{self.value:.4g}{unit} ({self.low:.4g}–{self.high:.4g})"


def score_of(metric: Mapping[str, Any]) -> Score:
    """A metric of an evaluation, with its unit."""
    unit = str(metric.get("unit", "share"))
    return Score(metric["value"], metric["low"], metric["high"], metric["n"], unit)


@dataclass(frozen=True)
class ModelRow:
    """One form of the model. `scores`: task and metric → score; `measured_on`: dataset and split in words."""

    label: str
    scores: Mapping[str, Score]
    bytes: int | None
    bits_per_weight: float | None
    measured_on: str
    artifact_id: str | None = None


class AnswerRow(NamedTuple):
    """One question and what was answered; None where that model was not asked."""

    question: str
    base: str | None
    tuned: str | None
    served: str | None


@dataclass(frozen=True)
class RunReport:
    """Everything the reader of a report sees.

    history: rows of `history.jsonl` (`step`, `loss` … or `step`, `validation_loss`);
    length_histogram: `bins` (edges in tokens, one more than counts) and `counts`;
    gate: `verdict` and `rules`, each with a `sentence`;
    channel: `name`, `artifact_id`, `generation`; endpoint: `id`, `url`, `engine`; both may hold more;
    ladder: what `flows.ladder.ladder.Ladder` holds;
    resident: `artifact_id` and `name` of what an `engine` has to hold for the adapter apart, and the
    `max_rank` that it has to be started for where that is not its own;
    arithmetic: in which type this machine computed and why, in words.
    """

    recipe: str
    run_id: str
    started: datetime
    seconds: float
    stages: Sequence[StageRow]
    models: Sequence[ModelRow] = ()
    history: Sequence[Mapping[str, Any]] = ()
    length_histogram: Mapping[str, Sequence[float]] | None = None
    nodes: Sequence[LineageNode] = ()
    edges: Sequence[LineageEdge] = ()
    gate: Mapping[str, Any] | None = None
    answers: Sequence[AnswerRow] = ()
    endpoint: Mapping[str, Any] | None = None
    toolchain: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] | None = None
    channel: Mapping[str, Any] | None = None
    ladder: Mapping[str, Any] | None = None
    resident: Mapping[str, Any] | None = None
    arithmetic: str | None = None


def verdict(report: RunReport) -> tuple[str, str]:
    """(tone, words): the tone is a gate's verdict, or `failed`, `interrupted` or `done`."""
    ended: dict[State, str] = {"failed": "Failed", "interrupted": "Interrupted"}
    for state, word in ended.items():
        if labels := [row.label for row in report.stages if row.state == state]:
            return state, f"{word} at {', '.join(labels)}" if labels != ["run"] else word
    if report.gate is None:
        return "done", "Finished; the gate was not asked"
    name = str(report.gate["verdict"])
    return name, VERDICTS.get(name, name)


def tasks_of(report: RunReport) -> list[str]:
    """Every task that some model was measured on, in the order of first appearance."""
    return list(dict.fromkeys(task for row in report.models for task in row.scores))


def measured_on(report: RunReport) -> list[str]:
    """Sentences that say what the scores were measured on."""
    places: dict[str, list[str]] = {}
    for row in report.models:
        if row.scores:
            places.setdefault(row.measured_on, []).append(row.label)
    if not places:
        return []
    brackets = "In brackets: 95% intervals; n: number of items."
    if len(places) == 1:
        return [f"Measured on {next(iter(places))}. {brackets}"]
    return [*(f"{', '.join(labels)}: measured on {place}." for place, labels in places.items()), brackets]
