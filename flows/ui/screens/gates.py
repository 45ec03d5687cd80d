"""Gate decisions: the list, and one with its rules, its evidence and its signature."""

from __future__ import annotations

from typing import Any, get_args

import yaml
from markupsafe import Markup
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.report.forest_plot import forest_plots
from flows.ui.pages import link_to, page, registry_of
from flows.ui.screens.artifacts import sequence_before
from flows.ui.screens.fleet import names_of
from registry.api import queries
from registry.channels.decisions import Verdict
from registry.db.tables import channel_events

ROWS = 50


def _gates(request: Request) -> Response:
    verdict = request.query_params.get("verdict", "")
    before = sequence_before(request)
    with registry_of(request).database.read() as connection:
        rows, following = queries.decisions(connection, {"verdict": verdict or None}, ROWS, before)
        called = names_of(connection, [row["candidate"] for row in rows])
    older = link_to("/gates", verdict=verdict, before=following) if following else None
    return page(
        request,
        "gates.html",
        rows=rows,
        called=called,
        older=older,
        verdict=verdict,
        here=link_to("/gates", verdict=verdict, before=before),
        verdicts=get_args(Verdict),
    )


def _gate(request: Request) -> Response:
    registry = registry_of(request)
    decision = registry.gates.resolve(request.path_params["id"])
    problem = registry.gates.problem(decision)
    rules: list[dict[str, Any]] = decision.evidence.get("rules", [])
    ids = [id_ for id_ in (decision.candidate, decision.baseline) if id_]
    with registry.database.read() as connection:
        called = names_of(connection, ids)
        moves = connection.execute(
            select(channel_events).where(channel_events.c.decision_id == decision.id)
        ).all()
    return page(
        request,
        "gate.html",
        decision=decision,
        problem=problem,
        rules=rules,
        plots=[Markup(plot) for plot in forest_plots(rules)],
        moves=moves,
        called=called,
        evaluations=decision.evidence.get("evaluations") or {},
        policy=yaml.safe_dump(decision.policy, sort_keys=False, allow_unicode=True),
    )


routes = [Route("/gates", _gates), Route("/gates/{id}", _gate)]
