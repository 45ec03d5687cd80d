"""Gather what a run came to, from the registry's artifacts, for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flows.lineage_picture import LineageEdge, LineageNode
from flows.promote import Verdict
from flows.report import AnswerRow, ModelRow, RunReport, Score
from flows.step import Run
from registry import Artifact
from registry.channels import Channel
from registry.endpoints import Endpoint


@dataclass
class Outcome:
    """What exists so far; a run that failed half-way has less."""

    base: Artifact | None = None
    dataset: Artifact | None = None
    adapter: Artifact | None = None
    variants: dict[str, tuple[Artifact, Artifact]] = field(default_factory=dict)
    verdict: Verdict | None = None
    channel: Channel | None = None
    endpoint: Endpoint | None = None

    def measured(self, label: str, model: Artifact, evaluation: Artifact) -> None:
        """`model`, called `label`, has this evaluation."""
        self.variants[label] = (model, evaluation)


def report(
    run: Run, outcome: Outcome, recipe: str, run_id: str, started: datetime, seconds: float
) -> RunReport:
    """Everything a reader wants to see of a run, finished or not."""
    nodes, edges = _lineage(run, outcome)
    verdict, channel, endpoint = outcome.verdict, outcome.channel, outcome.endpoint
    newest = next(reversed(outcome.variants.values()), None)
    return RunReport(
        recipe=recipe,
        run_id=run_id,
        started=started,
        seconds=seconds,
        stages=tuple(run.rows),
        models=tuple(model_row(label, *pair) for label, pair in outcome.variants.items()),
        history=_json_lines(run, outcome.adapter, "history.jsonl"),
        length_histogram=_histogram(outcome.dataset),
        nodes=nodes,
        edges=edges,
        gate=verdict.decision.model_dump(mode="json") if verdict else None,
        answers=_answers(run, outcome),
        endpoint=endpoint.model_dump(mode="json") if endpoint else None,
        toolchain=newest[1].manifest.toolchain if newest else {},
        base=outcome.base.manifest.base.model_dump() if outcome.base and outcome.base.manifest.base else None,
        channel=channel.model_dump(mode="json") if channel else None,
    )


def model_row(label: str, model: Artifact, evaluation: Artifact) -> ModelRow:
    """`model` with the scores, the size and the words of its evaluation."""
    found = evaluation.manifest.metrics
    scores = {
        f"{task} {metric}": Score(s["value"], s["low"], s["high"], s["n"])
        for task, metrics in found["tasks"].items()
        for metric, s in metrics.items()
    }
    return ModelRow(
        label, scores, found.get("bytes"), found.get("bits_per_weight"), found["measured_on"], model.id
    )


def _lineage(run: Run, outcome: Outcome) -> tuple[list[LineageNode], list[LineageEdge]]:
    artifacts: dict[str, tuple[Artifact, str]] = {}
    for artifact, label in (
        (outcome.base, "base"),
        (outcome.dataset, "dataset"),
        (outcome.adapter, "adapter"),
    ):
        if artifact is not None:
            artifacts.setdefault(artifact.id, (artifact, label))
    for label, (model, evaluation) in outcome.variants.items():
        artifacts.setdefault(model.id, (model, label))
        artifacts.setdefault(evaluation.id, (evaluation, f"score of {label}"))
    nodes = [LineageNode(id_, a.manifest.kind, label) for id_, (a, label) in artifacts.items()]
    edges = [
        LineageEdge(parent.id, id_, parent.relation)
        for id_, (artifact, _) in artifacts.items()
        for parent in artifact.manifest.parents
        if parent.id in artifacts and parent.relation != "tokenized_for"
    ]
    return nodes, edges


def _answers(run: Run, outcome: Outcome) -> list[AnswerRow]:
    """Each question with the untuned, the tuned and the last quantized model's answer."""
    said: dict[str, Mapping[str, str]] = {}
    for label, (_, evaluation) in outcome.variants.items():
        path = run.registry.view(evaluation.id) / "answers.json"
        if path.is_file():
            said[label] = {row["question"]: row["answer"] for row in json.loads(path.read_text("utf-8"))}
    columns = list(said.values())
    if not columns:
        return []
    base, tuned, served = columns[0], columns[min(1, len(columns) - 1)], columns[-1]
    rows = [AnswerRow(q, a, tuned.get(q), served.get(q)) for q, a in base.items()]
    if outcome.endpoint is not None and outcome.endpoint.question:
        question = outcome.endpoint.question
        rows.append(
            AnswerRow(
                f"{question} (asked at the endpoint)",
                base.get(question),
                tuned.get(question),
                outcome.endpoint.answer,
            )
        )
    return rows


def _histogram(dataset: Artifact | None) -> dict[str, Any] | None:
    if dataset is None:
        return None
    found = dataset.manifest.metrics["tokens"]["histogram"]
    return {"bins": found["edges"], "counts": found["counts"]}


def _json_lines(run: Run, artifact: Artifact | None, name: str) -> list[dict[str, Any]]:
    if artifact is None:
        return []
    text = (run.registry.view(artifact.id) / name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]
