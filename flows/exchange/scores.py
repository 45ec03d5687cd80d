"""The scores of an artifact's evaluations, one row per task and metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flows.exchange.dossier import Dossier, JsonObject
from registry.artifacts import Manifest

_SPLITS = {"merge-base": "validation"}
"""Kind of task → the split that it reads, where that is not the test split."""


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one task in one evaluation, with its 95 % interval over `n` items."""

    evaluation: str
    task: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    interval: str | None
    unit: str | None
    """What a figure that is no share counts."""
    measured_on: str
    computed_with: str
    dataset: str | None
    """Id of the dataset that a task on prepared data read; None for a task of lm-eval."""
    split: str | None
    """The split of it that was read."""

    @property
    def width(self) -> float:
        """Of the interval; 0 where there is none."""
        return 0.0 if self.low is None or self.high is None else self.high - self.low


def scores(dossier: Dossier) -> list[ScoreRow]:
    """Every score of every evaluation of the artifact, in a fixed order."""
    return [row for id_ in dossier.evaluations for row in _rows(id_, dossier.manifests[id_])]


def _rows(evaluation: str, manifest: Manifest) -> Iterator[ScoreRow]:
    recorded = manifest.metrics
    tasks = {task.get("name"): task for task in manifest.config.get("tasks", ())}
    dataset = next((p.id for p in manifest.parents if p.relation == "evaluated_on"), None)
    for task, metrics in sorted(recorded.get("tasks", {}).items()):
        for metric, score in sorted(metrics.items()):
            if isinstance(score, Mapping) and "value" in score:
                config = tasks.get(task, {})
                on_dataset = config.get("kind") not in (None, "lm-eval")
                split = config.get("split") or _SPLITS.get(config.get("kind"), "test")
                yield ScoreRow(
                    evaluation=evaluation,
                    task=task,
                    metric=metric,
                    **_figures(score),
                    measured_on=str(recorded.get("measured_on", "")),
                    computed_with=str(recorded.get("computed_with", "")),
                    dataset=dataset if on_dataset else None,
                    split=split if on_dataset and dataset else None,
                )


def _figures(score: Mapping[str, Any]) -> JsonObject:
    return {key: score.get(key) for key in ("value", "low", "high", "n", "interval", "unit")}
