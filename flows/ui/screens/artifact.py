"""One artifact: what it is, where it comes from, how it was measured, who serves it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from markupsafe import Markup
from sqlalchemy import Connection, Row, or_, select
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from flows.ladder.model import Ladder
from flows.report.charts import ErrorBar, interval_chart, length_chart
from flows.report.forest_plot import forest_plots
from flows.report.ladder_chart import ladder_chart
from flows.run.runs import past_runs
from flows.ui.pages import page, registry_of
from flows.ui.screens.fleet import names_of
from flows.ui.screens.lineage import lineage_graph
from flows.ui.screens.verification import verification_of
from registry import Artifact, Registry
from registry.api import queries
from registry.artifacts import MODEL_KINDS
from registry.db.tables import channels, endpoints, gate_decisions
from registry.evaluation_results import EvaluationMetrics
from stages.training_record import HISTORY, LOSSES, LoggedStep, loss_of, read_history

EVALUATIONS = 20
DECISIONS = 20
RELATIONS = {
    "adapter": "adapter of",
    "merge": "merged from",
    "quantized": "quantized from",
    "finetune": "tuned from",
}
"""How a fact says what the relation to a parent is, where its own name does not."""
RUNS = 30
"""How many of the newest runs are searched for the ladder that an artifact stands on."""


class Curve(TypedDict):
    """A line over the steps, None where it has no value."""

    name: str
    values: list[float | None]


class Curves(TypedDict):
    """What `tuneline.js` draws; `x`: the steps."""

    x: list[float]
    series: list[Curve]
    x_label: str
    y_label: str


def _artifact(request: Request) -> Response:
    registry, ref = registry_of(request), request.path_params["id"]
    artifact = registry.get(ref)
    if artifact.id != ref:
        return RedirectResponse(f"/artifacts/{artifact.id}", 303)
    with registry.database.read() as connection:
        facts = _facts(connection, artifact)
    ladder = _ladder(registry, artifact)
    return page(
        request,
        "artifact.html",
        artifact=artifact,
        manifest=artifact.manifest,
        **facts,
        relations=RELATIONS,
        ladder=ladder,
        ladder_picture=Markup(ladder_chart(ladder)) if ladder else None,
        lengths=_lengths(artifact.manifest.metrics),
        verification=verification_of(request, artifact.id),
        is_model=artifact.manifest.kind in MODEL_KINDS,
    )


def _facts(connection: Connection, artifact: Artifact) -> dict[str, Any]:
    measured, _ = queries.evaluations(connection, artifact.id, EVALUATIONS, None)
    evaluations = [{**row, "metrics": json.loads(row["manifest"])["metrics"]} for row in measured]
    about = or_(gate_decisions.c.candidate == artifact.id, gate_decisions.c.baseline == artifact.id)
    decisions = connection.execute(
        select(gate_decisions).where(about).order_by(gate_decisions.c.sequence.desc()).limit(DECISIONS)
    ).all()
    decision = next((row for row in decisions if row.candidate == artifact.id), None)
    rules = json.loads(decision.evidence).get("rules", []) if decision else []
    parents = {parent.id for parent in artifact.manifest.parents}
    return {
        "content": queries.content_of(connection, artifact.id),
        "given_names": queries.given_names(connection, artifact.id),
        "evaluations": evaluations,
        "charts": [Markup(chart) for chart in score_charts([(e["id"], e["metrics"]) for e in evaluations])],
        "decisions": decisions,
        "plots": [Markup(plot) for plot in forest_plots(rules)],
        "own_decision": decision,
        "served": _served(connection, artifact.id),
        "executions": queries.runs(connection, artifact.id, 10, None)[0],
        "lineage": Markup(lineage_graph(connection, artifact.id)),
        "called": names_of(connection, parents),
    }


def _served(connection: Connection, artifact_id: str) -> dict[str, Sequence[Row[Any]]]:
    """Which channels point to it, and which engines, not marked as stopped, serve it."""
    pointing = select(channels).where(channels.c.artifact_id == artifact_id).order_by(channels.c.name)
    running = (endpoints.c.artifact_id == artifact_id) & endpoints.c.stopped.is_(None)
    return {
        "channels": connection.execute(pointing).all(),
        "engines": connection.execute(select(endpoints).where(running)).all(),
    }


def score_charts(evaluations: Sequence[tuple[str, EvaluationMetrics]]) -> list[str]:
    """One chart per task and metric, with a row for each evaluation (its id, its metrics)."""
    by_metric: dict[str, list[ErrorBar]] = {}
    shares: dict[str, bool] = {}
    for evaluation, metrics in evaluations:
        for task, scored in metrics.get("tasks", {}).items():
            for metric, score in scored.items():
                name = f"{task} {metric}"
                value, low, high, n = score["value"], score["low"], score["high"], score["n"]
                unit = score.get("unit", "share")
                share = unit == "share" and 0 <= low <= high <= 1
                shares[name] = shares.get(name, True) and share
                number = f"{value:.4g}" if unit == "share" else f"{value:.4g} {unit}"
                text = f"{value:.1%} (n = {n:,})" if share else f"{number} (n = {n:,})"
                by_metric.setdefault(name, []).append(ErrorBar(evaluation[:12], value, low, high, text))
    return [
        interval_chart(
            rows[:8],
            title=f"Scores on {name}",
            description="; ".join(f"{row.label}: {row.words}" for row in rows[:8]),
            share=shares[name],
            x_label=f"{name}, 95 % intervals",
        )
        for name, rows in by_metric.items()
    ]


def _lengths(metrics: Mapping[str, Any]) -> Markup | None:
    tokens = metrics.get("tokens")
    lengths = tokens.get("histogram") if isinstance(tokens, Mapping) else None
    if not lengths:
        return None
    return Markup(length_chart(lengths["edges"], lengths["counts"]))


def _ladder(registry: Registry, artifact: Artifact) -> Ladder | None:
    """The ladder of the newest run that measured the artifact."""
    if artifact.manifest.kind not in MODEL_KINDS:
        return None
    for run in past_runs(registry.home, RUNS):
        report = run.report or {}
        if report.get("ladder") and any(row.get("artifact_id") == artifact.id for row in report["models"]):
            return Ladder.model_validate(report["ladder"])
    return None


def _curve(request: Request) -> Response:
    """The training's curves, as `tuneline.js` draws them."""
    registry = registry_of(request)
    artifact = registry.get(request.path_params["id"])
    if HISTORY not in artifact.manifest.files:
        return PlainTextResponse("this artifact was not trained", 404)
    return JSONResponse(curves(read_history(registry.view(artifact.id))))


def curves(history: Sequence[LoggedStep]) -> Curves:
    """What was logged of a training, as curves over the step."""
    steps = sorted({row["step"] for row in history})
    names = {"loss": "training loss", "validation_loss": "validation loss"}
    series: list[Curve] = []
    for key, name in names.items():
        values = {row["step"]: row[key] for row in history if row.get(key) is not None}
        if values:
            series.append({"name": name, "values": [values.get(step) for step in steps]})
    loss = f"loss ({LOSSES[loss_of(history)]})"
    return {"x": steps, "series": series, "x_label": "optimizer step", "y_label": loss}


def _card(request: Request) -> Response:
    """The model card as an export would write it."""
    from flows.exchange.dossier import gather
    from flows.exchange.model_card import model_card

    _, dossier = gather(registry_of(request), request.path_params["id"])
    return page(request, "card.html", card=model_card(dossier))


routes = [
    Route("/artifacts/{id}", _artifact),
    Route("/artifacts/{id}/curve.json", _curve),
    Route("/artifacts/{id}/card", _card),
]
