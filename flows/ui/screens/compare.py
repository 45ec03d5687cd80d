"""Two to four models side by side: what differs in how they were made, how they score, what they answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.gates.evidence import Evidence, load_evidence
from flows.gates.policy import TaskRule
from flows.gates.rules import RuleResult, judge_rule
from flows.report.forest_plot import forest_plots
from flows.ui.pages import link_to, page, registry_of
from flows.ui.screens.difference import marked
from flows.ui.screens.fleet import names_of
from registry import Artifact, Registry
from registry.artifacts import MODEL_KINDS
from registry.errors import NotFound
from registry.evaluation_results import Item, ScoredResult, is_fidelity, read_items, read_results
from stages.training_record import HISTORY, read_history

MOST = 4
ANSWERS = 25
"""Questions of one page."""


@dataclass(frozen=True)
class Side:
    """One of the compared: the model, and its latest evaluation on tasks, if there is one."""

    artifact: Artifact
    label: str
    evaluation: Artifact | None
    evidence: Evidence | None


class LoggedAnswer(NamedTuple):
    """What one side said to a question."""

    text: Markup
    score: float | None


class Question(NamedTuple):
    asked: str
    expected: str
    answers: list[LoggedAnswer | None]


def _compare(request: Request) -> Response:
    registry, ids = registry_of(request), list(dict.fromkeys(request.query_params.getlist("id")))
    if len(ids) > MOST:
        raise HTTPException(404, f"a comparison is of two to {MOST} models; {len(ids)} were named")
    sides = _sides(registry, ids)
    scored = _scored_tasks(sides)
    task = request.query_params.get("task") or next(iter(scored), None)
    if task is not None and task not in scored:
        raise HTTPException(404, f"no task {task[:80]!r} was measured on all of them")
    flips = request.query_params.get("flips", "1") == "1"
    questions = _questions(registry, sides, task) if task else []
    shown = [question for question in questions if not flips or _flipped(question)]
    start = _start(request)
    return page(
        request,
        "compare.html",
        sides=sides,
        ids=[side.artifact.id for side in sides],
        differences=_differences(registry, sides),
        results=[(side, results) for side in sides[1:] if (results := _results(sides[0], side, scored))],
        scored=scored,
        task=task,
        flips=flips,
        total=len(questions),
        matching=len(shown),
        questions=_with_marks(shown[start : start + ANSWERS]),
        start=start,
        older=_next(request, start, len(shown)),
        plots=lambda results: [Markup(plot) for plot in forest_plots([r.model_dump() for r in results])],
        trained=any(HISTORY in adapter.manifest.files for _, adapter in _adapters(registry, sides)),
    )


def _start(request: Request) -> int:
    start = request.query_params.get("from", "0")
    if not start.isascii() or not start.isdigit() or len(start) > 8:
        raise HTTPException(404, "there are no such answers; start at the first")
    return int(start)


def _next(request: Request, start: int, count: int) -> str | None:
    if start + ANSWERS >= count:
        return None
    parameters = {key: request.query_params.getlist(key) for key in request.query_params}
    return link_to("/compare", **{**parameters, "from": start + ANSWERS})


def _sides(registry: Registry, refs: Sequence[str]) -> list[Side]:
    artifacts = [_model(registry, registry.get(ref)) for ref in refs]
    with registry.database.read() as connection:
        called = names_of(connection, [model.id for model, _ in artifacts])
    sides = []
    for model, evaluation in artifacts:
        chosen = evaluation or _latest(registry, model)
        evidence = load_evidence(registry.view(chosen.id), chosen.id) if chosen else None
        label = called.get(model.id) or f"{model.manifest.kind} {model.id[:7]}"
        sides.append(Side(model, label, chosen, evidence))
    return sides


def _model(registry: Registry, artifact: Artifact) -> tuple[Artifact, Artifact | None]:
    """The model itself, or the one that an evaluation measured and that evaluation."""
    if artifact.manifest.kind in MODEL_KINDS:
        return artifact, None
    if artifact.manifest.kind != "evaluation":
        raise HTTPException(404, f"{artifact.id[:12]} is a {artifact.manifest.kind}: models are compared")
    measured = [registry.get(p.id) for p in artifact.manifest.parents if p.relation == "evaluation_of"]
    measured.sort(key=lambda model: model.manifest.kind != "adapter")
    if not measured:
        raise NotFound(f"evaluation {artifact.id[:12]} is of a model that this registry does not hold")
    return measured[0], artifact


def _latest(registry: Registry, model: Artifact) -> Artifact | None:
    """The newest evaluation on tasks that is of the model itself; a base's own, not an adapter's on it, and
    none by which a sweep chose."""
    for evaluation in reversed(registry.evaluations(model.id)):
        splits = {task.get("split") for task in evaluation.manifest.config.get("tasks", ())}
        if splits == {"validation"}:
            continue
        if evaluation.manifest.metrics.get("tasks") and _model(registry, evaluation)[0].id == model.id:
            return evaluation
    return None


def _scored_tasks(sides: Sequence[Side]) -> dict[str, list[str]]:
    """Task → metrics that every side was measured on."""
    tasks: dict[str, list[str]] | None = None
    for side in sides:
        evidence = side.evidence
        scored = {name: list(task.scores) for name, task in evidence.tasks.items()} if evidence else {}
        if tasks is None:
            tasks = scored
        else:
            tasks = {name: [m for m in tasks[name] if m in scored[name]] for name in tasks if name in scored}
    return {name: metrics for name, metrics in (tasks or {}).items() if metrics}


def _results(reference: Side, side: Side, scored: Mapping[str, list[str]]) -> list[RuleResult]:
    """The paired difference of each metric, by the arithmetic of the gate; against no margin."""
    if side.evidence is None or reference.evidence is None:
        return []
    named = reference.evidence.model_copy(update={"called": reference.label})
    results = []
    for task, metrics in scored.items():
        both = (side.evidence.tasks[task], reference.evidence.tasks[task])
        for metric in metrics:
            if "_precision[" in metric or "_recall[" in metric:
                continue  # of each field its F1 is enough
            shares = all(set(items.scores[metric].values()) <= {0.0, 1.0} for items in both)
            binary = "binary" if shares and metric not in both[0].together else "real"
            rule = TaskRule(task=task, metric=metric, role="improve", against="live", scores=binary)
            result = judge_rule(rule, side.evidence, named, min_items=1)
            results.append(result.model_copy(update={"rule": f"{task} {metric}"}))
    return results


def _differences(registry: Registry, sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """The keys of the configurations along each lineage that are not the same for all."""
    flat = [_configurations(registry, side.artifact) for side in sides]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = [(key, [settings.get(key, "–") for settings in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _configurations(registry: Registry, artifact: Artifact) -> dict[str, str]:
    """`stage.key` → value of the artifact and of what it was made from."""
    ids = dict.fromkeys([artifact.id, *(edge.parent for edge in registry.lineage(artifact.id))])
    flat: dict[str, str] = {}
    for id_ in ids:
        manifest = registry.get(id_).manifest
        if manifest.kind != "evaluation":
            for key, value in _flatten(manifest.config):
                flat.setdefault(f"{manifest.stage}.{key}", value)
            flat.setdefault(f"{manifest.stage}: result", id_[:12])
    return flat


def _flatten(config: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            entries += _flatten(value, f"{path}{key}.")
        else:
            entries.append((f"{path}{key}", value if isinstance(value, str) else json.dumps(value)))
    return entries


def _questions(registry: Registry, sides: Sequence[Side], task: str) -> list[Question]:
    """Each item of the task with every side's answer, in the order of the first side."""
    rows = [_items(registry, side, task) for side in sides]
    first = next((row for row in rows if row), {})
    return [
        Question(
            item["asked"],
            item["target"],
            [_answer(row.get(key)) for row in rows],
        )
        for key, item in first.items()
    ]


def _items(registry: Registry, side: Side, task: str) -> dict[str, Item]:
    if side.evaluation is None:
        return {}
    folder = registry.view(side.evaluation.id)
    result: Any = read_results(folder)["tasks"].get(task)
    if result is None or is_fidelity(result):
        return {}
    scored: ScoredResult = result
    return {item["item"]: item for item in read_items(folder, scored)}


def _answer(item: Item | None) -> LoggedAnswer | None:
    if item is None:
        return None
    scores, metric = item["scores"], item.get("metric")
    score = scores.get(metric, item.get("score")) if metric else next(iter(scores.values()), None)
    return LoggedAnswer(Markup.escape(item.get("answer", "")), score)


def _flipped(question: Question) -> bool:
    return len({answer.score for answer in question.answers if answer}) > 1


def _with_marks(questions: Sequence[Question]) -> list[Question]:
    """The same, with what differs from the first side's answer marked."""
    done = []
    for question in questions:
        first = question.answers[0]
        answers = [
            answer
            if answer is None or first is None or index == 0
            else answer._replace(text=marked(first.text, answer.text))
            for index, answer in enumerate(question.answers)
        ]
        done.append(question._replace(answers=answers))
    return done


def _adapters(registry: Registry, sides: Sequence[Side]) -> list[tuple[Side, Artifact]]:
    """Each side with its adapter: itself, or the one that it was made with."""
    adapters = []
    for side in sides:
        ids = [side.artifact.id, *(edge.parent for edge in registry.lineage(side.artifact.id))]
        lineage = (registry.get(id_) for id_ in ids)
        adapter = next((artifact for artifact in lineage if artifact.manifest.kind == "adapter"), None)
        if adapter is not None:
            adapters.append((side, adapter))
    return adapters


def _curves(request: Request) -> Response:
    """The training losses of all sides over one another; equal ones would hide each other, and are one."""
    registry = registry_of(request)
    sides = _sides(registry, list(dict.fromkeys(request.query_params.getlist("id")))[:MOST])
    losses: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for side, adapter in _adapters(registry, sides):
        if HISTORY in adapter.manifest.files:
            rows = read_history(registry.view(adapter.id))
            curve = {row["step"]: row["loss"] for row in rows if row.get("loss") is not None}
            losses.setdefault(tuple(curve.items()), []).append(side.label)
    steps = sorted({step for curve in losses for step, _ in curve})
    series = [
        {
            "name": " and ".join(names) + (" (the same curve)" if len(names) > 1 else ""),
            "values": [dict(curve).get(step) for step in steps],
        }
        for curve, names in losses.items()
    ]
    labels = {"x_label": "optimizer step", "y_label": "training loss (nats per token)"}
    return JSONResponse({"x": steps, "series": series, **labels})


routes = [Route("/compare", _compare), Route("/compare/curves.json", _curves)]
