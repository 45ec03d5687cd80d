"""The names of a list of metrics' scores: whether two are one, and which are no 0 or 1."""

from __future__ import annotations

from stages.config.embedding_metric import EmbeddingMetric
from stages.config.judge_metric import JudgeMetric
from stages.config.metrics import (
    BleuMetric,
    ChrfMetric,
    FieldsMetric,
    LengthMetric,
    MetricConfig,
    RougeMetric,
    ToolCallMetric,
)
from stages.config.user_metric import PythonMetric


def real_scores(metrics: tuple[MetricConfig, ...]) -> set[str]:
    """The scores that are other numbers than 0 and 1, or of all items together: `scores: real` in a rule."""
    real = (FieldsMetric, RougeMetric, ChrfMetric, BleuMetric, EmbeddingMetric)
    every = {score for metric in metrics if isinstance(metric, real) for score in metric.scores}
    for metric in metrics:
        if isinstance(metric, LengthMetric):
            every.add(metric.name)
        if isinstance(metric, PythonMetric) and metric.scores_are == "real":
            every.add(metric.name)
        if isinstance(metric, JudgeMetric) and not metric.binary:
            every.add(metric.name)
        if isinstance(metric, ToolCallMetric):
            every |= set(metric.scores[2:])
    return every


OTHERS = {"exact_match": "exact", "json_valid": "json", "choice_acc": "choice"}
"""Scores with a name of their own, and whose they are."""


def repeated(metrics: tuple[MetricConfig, ...]) -> str | None:
    """A score that two of them give, or one of them and the task itself; None where all differ."""
    seen: set[str] = set()
    for metric in metrics:
        for score in metric.scores:
            if score in seen or OTHERS.get(score, metric.kind) != metric.kind:
                return score
            seen.add(score)
    return None
