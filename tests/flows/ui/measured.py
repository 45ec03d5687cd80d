"""A model with an evaluation whose items and answers are logged, as the evaluate stage does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry import Artifact, Registry
from tests.flows.evaluation_files import Row, evaluation
from tests.flows.lineages import publish


def measure(registry: Registry, model: Artifact, scores: Sequence[float], answers: Sequence[str]) -> Artifact:
    """An evaluation of the model on a task `heldout`: each item's score and answer."""

    def answered(_results: dict[str, Any], rows: list[Row]) -> None:
        for row, answer in zip(rows, answers, strict=True):
            row |= {"answer": answer, "target": "the right one", "metric": "exact_match", "document": 0}

    share = sum(scores) / len(scores)
    figure = {"value": share, "low": 0.0, "high": 1.0, "n": len(scores), "interval": "wilson"}
    return publish(
        registry,
        "evaluation",
        "evaluate",
        evaluation(scores, answered, subject=model.id),
        (("evaluation_of", model),),
        base=model.manifest.base,
        metrics={"tasks": {"heldout": {"exact_match": figure}}, "measured_on": "heldout"},
    )
