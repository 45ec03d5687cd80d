"""Channels: the list, one with its history, and what changes it: promotion, rollback, rollouts."""

from __future__ import annotations

import math

from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.changes import Form, changing, who
from flows.ui.pages import page, registry_of
from flows.ui.screens.fleet import channel_cards, names_of
from registry import Registry, Waiver
from registry.channels.channels import Channel
from registry.channels.decisions import GateDecision
from registry.db.tables import gate_decisions
from registry.errors import InvalidArtifact, NotFound

OUTCOMES_SHOWN = 8


def _channels(request: Request) -> Response:
    with registry_of(request).database.read() as connection:
        cards = channel_cards(connection)
    return page(request, "channels.html", cards=cards)


def _channel(request: Request) -> Response:
    registry, name = registry_of(request), _name(request)
    current = _existing(registry, name)
    history = list(reversed(registry.channels.history(name)))
    with registry.database.read() as connection:
        card = channel_cards(connection, name)[0]
        called = names_of(connection, {event.artifact_id for event in history})
        query = select(gate_decisions.c.id, gate_decisions.c.verdict)
        cited = query.where(gate_decisions.c.id.in_([e.decision_id for e in history if e.decision_id]))
        verdicts = {row.id: row.verdict for row in connection.execute(cited)}
    return page(
        request,
        "channel.html",
        card=card,
        current=current,
        history=history,
        verdicts=verdicts,
        called=called,
        policies=list(reversed(registry.channels.policies(name))),
        rollouts=list(reversed(registry.rollouts.history(name))),
        outcomes=registry.outcomes.summary(name)[-OUTCOMES_SHOWN:],
        before=_before(registry, current),
    )


def _before(registry: Registry, current: Channel) -> str | None:
    """The artifact that a rollback would go back to, or None where there is none."""
    from registry.channels.channels import HISTORY, earlier

    with registry.database.read() as connection:
        events = HISTORY.events(connection, current.name)
    try:
        return str(earlier(events, current).artifact_id)
    except NotFound:
        return None


def _promote_page(request: Request) -> Response:
    """What a promotion would change, before it does."""
    registry, name = registry_of(request), _name(request)
    ref = request.query_params.get("artifact", "").strip()
    current = registry.channels.get(name)
    artifact = registry.get(ref) if ref else None
    decision = _passing(registry, artifact.id, current) if artifact else None
    return page(
        request,
        "promote.html",
        channel=name,
        current=registry.get(current.artifact_id) if current else None,
        generation=current.generation if current else 0,
        artifact=artifact,
        decision=decision,
    )


def _passing(registry: Registry, candidate: str, current: Channel | None) -> GateDecision | None:
    """The newest passing decision that would let the candidate take the channel's place."""
    for decision in reversed(registry.gates.about(candidate)):
        against = current is None or decision.baseline == current.artifact_id
        if decision.verdict == "pass" and against and registry.gates.problem(decision) is None:
            return decision
    return None


def _promote(request: Request, form: Form) -> Response:
    registry, name = registry_of(request), _name(request)
    artifact, generation = registry.get(_text(form, "artifact")), _generation(form)
    decision, reason = _text(form, "decision", ""), _text(form, "reason", "")
    waiver = None if decision else Waiver(reason, who(request))
    registry.channels.move(name, artifact.id, generation, decision or None, waiver, who(request))
    return RedirectResponse(f"/channels/{name}", 303)


def _rollback_page(request: Request) -> Response:
    registry, name = registry_of(request), _name(request)
    current = _existing(registry, name)
    before = _before(registry, current)
    return page(
        request,
        "rollback.html",
        channel=name,
        current=registry.get(current.artifact_id),
        before=registry.get(before) if before else None,
        generation=current.generation,
    )


def _rollback(request: Request, form: Form) -> Response:
    registry, name = registry_of(request), _name(request)
    current = _existing(registry, name)
    if current.generation != _generation(form):
        raise InvalidArtifact(
            f"channel {name} was moved since this page was made: it is at generation {current.generation} "
            "now; look at it again, and roll back if that is still right"
        )
    registry.channels.rollback(name, reason=_text(form, "reason"), who=who(request))
    return RedirectResponse(f"/channels/{name}", 303)


def _rollout(request: Request, form: Form) -> Response:
    registry, name = registry_of(request), _name(request)
    candidate = registry.get(_text(form, "candidate")).id
    shares = [_percent(form, key) for key in ("canary", "shadow")]
    registry.rollouts.start(name, candidate, shares[0], shares[1], who(request), _text(form, "reason"))
    return RedirectResponse(f"/channels/{name}#rollout", 303)


def _stop_rollout(request: Request, form: Form) -> Response:
    registry, name = registry_of(request), _name(request)
    registry.rollouts.stop(name, who(request), _text(form, "reason"))
    return RedirectResponse(f"/channels/{name}#rollout", 303)


def _name(request: Request) -> str:
    return f"{request.path_params['team']}/{request.path_params['name']}"


def _existing(registry: Registry, name: str) -> Channel:
    current = registry.channels.get(name)
    if current is None:
        raise NotFound(f"no channel {name!r}; the list of channels has those that exist")
    return current


def _text(form: Form, key: str, default: str | None = None) -> str:
    value = form.get(key, default or "").strip()
    if default is None and not value:
        raise HTTPException(422, f"{key}: expected a text; it is empty")
    return value


def _generation(form: Form) -> int:
    text = _text(form, "generation")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise HTTPException(422, f"generation: expected a number, not {text[:20]!r}")
    return int(text)


def _percent(form: Form, key: str) -> float:
    text = _text(form, key, "0") or "0"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise HTTPException(422, f"{key}: expected a number from 0 to 100, not {text[:20]!r}")
    return value


_ONE = "/channels/{team}/{name}"
routes = [
    Route("/channels", _channels),
    Route(_ONE, _channel),
    Route(f"{_ONE}/promote", _promote_page),
    Route(f"{_ONE}/rollback", _rollback_page),
    changing(f"{_ONE}/promote", _promote, "operator"),
    changing(f"{_ONE}/rollback", _rollback, "operator"),
    changing(f"{_ONE}/rollout", _rollout, "operator"),
    changing(f"{_ONE}/rollout/stop", _stop_rollout, "operator"),
]
