"""The metrics of a task, ready to score: one function of an answer and its references."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.config.bounded import linear_pattern
from stages.config.embedding_metric import EmbeddingMetric
from stages.config.evaluate import HeldoutTask
from stages.config.judge_metric import FILES, JudgeMetric, names_file
from stages.config.metrics import (
    BleuMetric,
    ChrfMetric,
    ContainsMetric,
    ExactMetric,
    FieldsMetric,
    JsonMetric,
    JsonSchemaMetric,
    LengthMetric,
    MetricConfig,
    NormalizedMetric,
    NumberMetric,
    RefusalMetric,
    RegexMetric,
    RougeMetric,
    ToolCallMetric,
)
from stages.config.user_metric import PythonMetric
from stages.scoring import similarity, text
from stages.scoring.documents import json_valid, schema_valid
from stages.scoring.fields import fields
from stages.scoring.item import CorpusMetric, ItemScore, ReadyMetric, single
from stages.scoring.refusal import refusal
from stages.scoring.tool_calls import tool_call

Targets = Sequence[Sequence[str]]
"""The references of each item of the split, in its order."""


_APART = (ExactMetric, PythonMetric, EmbeddingMetric, JudgeMetric)


class Scorer:
    """Every metric of a task but `exact`, which needs the chat template, and `python`, `embedding` and
    `judge`, which take all items at once.

    Raises `InvalidInput` where a metric cannot score these `targets`, or its schema is not one.
    """

    def __init__(self, metrics: Sequence[MetricConfig], targets: Targets) -> None:
        self._ready = [_ready(metric, targets) for metric in metrics if not isinstance(metric, _APART)]
        self.units: dict[str, str] = {}
        """Score → its unit: `share`, `of 1`, `of 100`, `words`, `characters`."""
        self.corpus: dict[str, CorpusMetric] = {}
        """Figures of all items together, by name."""
        for metric in metrics:
            if isinstance(metric, PythonMetric):
                self.units[metric.name] = metric.unit if metric.scores_are == "real" else "share"
            elif isinstance(metric, EmbeddingMetric):
                self.units[metric.name] = "of 1"
            elif isinstance(metric, JudgeMetric):
                self.units[metric.name] = "share" if metric.levels == 2 else f"of {metric.levels}"
        for ready in self._ready:
            self.units |= ready.units
            self.corpus |= ready.corpus

    def score(self, answer: str, references: Sequence[str]) -> ItemScore:
        """What the answer to one item scores, by every metric."""
        scores: dict[str, float] = {}
        counts: dict[str, Sequence[float]] = {}
        for ready in self._ready:
            found = ready.score(answer, references)
            scores |= found.scores
            counts |= found.counts
        return ItemScore(scores, counts)


def _ready(metric: MetricConfig, targets: Targets) -> ReadyMetric:
    match metric:
        case NormalizedMetric():
            return text.normalized_match(metric)
        case ContainsMetric():
            return text.contained(metric)
        case RegexMetric():
            pattern = linear_pattern(metric.pattern)
            return single(metric.name, lambda answer, _: float(pattern.found_in(answer)))
        case NumberMetric():
            return text.number_match(metric, targets)
        case JsonMetric():
            return json_valid()
        case JsonSchemaMetric():
            return schema_valid(metric)
        case FieldsMetric():
            return fields(metric, targets)
        case RougeMetric():
            return similarity.rouge_l(metric)
        case ChrfMetric():
            return similarity.chrf(metric)
        case BleuMetric():
            return similarity.bleu(metric)
        case LengthMetric():
            return text.length(metric)
        case RefusalMetric():
            return refusal(metric)
        case ToolCallMetric():
            return tool_call(metric)
    raise AssertionError(metric)


def recorded(task: HeldoutTask) -> dict[str, Any]:
    """The task's settings as an evaluation records them: of a file its name and digest, not its place."""
    settings = task.model_dump(mode="json")
    for metric in settings.get("metrics", ()):
        for key in ("path", *FILES):
            if metric.get(key) and names_file(metric[key]):
                metric[key] = _by_digest(Path(metric[key]).expanduser())
    return settings


def _by_digest(file: Path) -> str:
    file = file / "model.gguf" if file.is_dir() else file
    with file.open("rb") as opened:
        return f"{file.name}@{hashlib.file_digest(opened, 'sha256').hexdigest()}"
