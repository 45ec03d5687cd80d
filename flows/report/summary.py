"""Gather what a run came to, from the registry's artifacts, for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flows.candidate import Candidate
from flows.ladder.evidence import ladder_of
from flows.outcome import RunOutcome
from flows.report.lineage_picture import LineageEdge, LineageNode
from flows.report.report import AnswerRow, ModelRow, RunReport
from flows.report.rows import score_of
from flows.run.step import Run
from flows.unmerged import ServingBase
from registry import Artifact
from stages.training_record import read_history


def report(
    run: Run, outcome: RunOutcome, recipe: str, run_id: str, started: datetime, seconds: float
) -> RunReport:
    """Everything a reader wants to see of a run, finished or not."""
    nodes, edges = _lineage(run, outcome)
    verdict, channel, endpoint = outcome.verdict, outcome.channel, outcome.endpoint
    ladder = ladder_of(run.registry, outcome, run.stopped)
    newest = outcome.candidates[-1].evaluation if outcome.candidates else None
    return RunReport(
        recipe=recipe,
        run_id=run_id,
        started=started,
        seconds=seconds,
        stages=tuple(run.rows),
        models=tuple(model_row(candidate) for candidate in outcome.candidates),
        history=read_history(run.registry.view(outcome.adapter.id)) if outcome.adapter else (),
        length_histogram=_histogram(outcome.dataset),
        nodes=nodes,
        edges=edges,
        gate=verdict.decision.model_dump(mode="json") if verdict else None,
        answers=_answers(run, outcome),
        endpoint=endpoint.model_dump(mode="json") if endpoint else None,
        toolchain=newest.manifest.toolchain if newest else {},
        base=outcome.base.manifest.base.model_dump() if outcome.base and outcome.base.manifest.base else None,
        channel=channel.model_dump(mode="json") if channel else None,
        ladder=ladder.model_dump(mode="json") if ladder else None,
        resident=_resident(outcome.resident),
        arithmetic=run.arithmetic.sentence if run.arithmetic else None,
    )


def _resident(base: ServingBase | None) -> dict[str, str | int] | None:
    if base is None:
        return None
    rank = {} if base.max_rank is None else {"max_rank": base.max_rank}
    return {"artifact_id": base.artifact.id, "engine": base.engine, "name": base.name, **rank}


def model_row(candidate: Candidate) -> ModelRow:
    """The model with the scores, the size and the words of its evaluation."""
    metrics = candidate.evaluation.manifest.metrics
    scores = {
        f"{task} {metric}": score_of(scored[metric])
        for task, scored in metrics["tasks"].items()
        for metric in _shown(scored, metrics.get("main", {}).get(task))
    }
    return ModelRow(
        label=candidate.label,
        scores=scores,
        bytes=metrics.get("bytes"),
        bits_per_weight=metrics.get("bits_per_weight"),
        measured_on=metrics["measured_on"],
        artifact_id=candidate.model.id,
    )


def _shown(scored: Mapping[str, Any], main: str | None) -> list[str]:
    """The main metric first, and of each field its F1 alone: the artifact's page has them all."""
    figures = ("precision", "recall")
    of_fields = {name for name in scored if "[" in name and scored[name].get("figure") in figures}
    return [name for name in sorted(scored, key=lambda name: name != main) if name not in of_fields]


def _lineage(run: Run, outcome: RunOutcome) -> tuple[list[LineageNode], list[LineageEdge]]:
    artifacts: dict[str, tuple[Artifact, str]] = {}
    for artifact, label in (
        (outcome.base, "base"),
        (outcome.dataset, "dataset"),
        (outcome.adapter, "adapter"),
        (outcome.resident.artifact if outcome.resident else None, "base in GGUF"),
    ):
        if artifact is not None:
            artifacts.setdefault(artifact.id, (artifact, label))
    for candidate in outcome.candidates:
        artifacts.setdefault(candidate.model.id, (candidate.model, candidate.label))
        score = candidate.evaluation, f"score of {candidate.label}"
        artifacts.setdefault(candidate.evaluation.id, score)
    nodes = [LineageNode(id_, a.manifest.kind, label) for id_, (a, label) in artifacts.items()]
    edges = [
        LineageEdge(parent.id, id_, parent.relation)
        for id_, (artifact, _) in artifacts.items()
        for parent in artifact.manifest.parents
        if parent.id in artifacts and parent.relation != "tokenized_for"
    ]
    return nodes, edges


def _answers(run: Run, outcome: RunOutcome) -> list[AnswerRow]:
    """Each question with the answers of the untuned, the tuned and the promoted model; what the endpoint was
    asked is answered by the endpoint itself."""
    asked = (outcome.of("base"), outcome.of("tuned"), outcome.promoted)
    base, tuned, served = (_answered(run, candidate) for candidate in asked)
    if outcome.endpoint is not None and outcome.endpoint.question and outcome.endpoint.answer:
        served[outcome.endpoint.question] = outcome.endpoint.answer
    questions = dict.fromkeys([*base, *served])
    return [AnswerRow(q, base.get(q), tuned.get(q), served.get(q)) for q in questions]


def _answered(run: Run, candidate: Candidate | None) -> dict[str, str]:
    """Question → answer, as the candidate's evaluation logged them."""
    if candidate is None:
        return {}
    path = run.registry.view(candidate.evaluation.id) / "answers.json"
    if not path.is_file():
        return {}
    return {row["question"]: row["answer"] for row in json.loads(path.read_text("utf-8"))}


def _histogram(dataset: Artifact | None) -> dict[str, Sequence[float]] | None:
    if dataset is None:
        return None
    histogram = dataset.manifest.metrics["tokens"]["histogram"]
    return {"bins": histogram["edges"], "counts": histogram["counts"]}
