"""A model with an evaluation whose items and answers are logged, as the evaluate stage does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry import Artifact, Registry
from stages.statistics.corpus import value_of
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


def measure_drawn(registry: Registry, model: Artifact, right: Sequence[int]) -> Artifact:
    """An evaluation with pass@1: how many of four drawn answers to each item are right."""
    name = "pass@1[exact_match]"

    def drawn(results: dict[str, Any], rows: list[Row]) -> None:
        figure = {"value": sum(right) / len(right) / 4, "low": 0.0, "high": 1.0, "n": len(right)}
        results["tasks"]["heldout"]["metrics"][name] = {**figure, "interval": "mean"}
        for row, count in zip(rows, right, strict=True):
            row |= {"answer": "said", "target": "expected", "metric": "exact_match", "document": 0}
            row["scores"][name] = count / 4
            row["drawn"] = [
                {"seed": n, "answer": "said", "scores": {"exact_match": float(n < count)}} for n in range(4)
            ]

    return publish(
        registry,
        "evaluation",
        "evaluate",
        evaluation([0.0] * len(right), drawn, subject=model.id),
        (("evaluation_of", model),),
        base=model.manifest.base,
        metrics={"tasks": {"heldout": {name: {"value": 0.0, "low": 0.0, "high": 1.0, "n": len(right)}}}},
    )


def measure_fields(registry: Registry, model: Artifact, matched: Sequence[float]) -> Artifact:
    """An evaluation whose main metric is F1 of all items: how many of two fields each item has right."""
    counts = [[right, 2, 2] for right in matched]
    figure = {"value": value_of("f1", counts), "low": 0.4, "high": 0.9, "n": len(counts)}
    f1 = {**figure, "interval": "bootstrap", "figure": "f1", "counts": "fields"}
    bleu = {
        "value": 31.2,
        "low": 29.0,
        "high": 33.0,
        "n": len(counts),
        "interval": "normal",
        "unit": "of 100",
    }

    def answered(results: dict[str, Any], rows: list[Row]) -> None:
        results["tasks"]["heldout"]["metrics"] = {"fields_f1": f1}
        for row, own in zip(rows, counts, strict=True):
            row |= {"answer": "said", "target": "expected", "metric": "fields_f1", "score": own[0] / 2}
            row |= {"scores": {}, "counts": {"fields": own}, "document": 0}

    return publish(
        registry,
        "evaluation",
        "evaluate",
        evaluation([0.0] * len(counts), answered, subject=model.id),
        (("evaluation_of", model),),
        base=model.manifest.base,
        metrics={"tasks": {"heldout": {"fields_f1": f1, "bleu": bleu}}, "measured_on": "heldout"},
    )
