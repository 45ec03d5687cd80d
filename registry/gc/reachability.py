"""What must keep its files, and why: everything that something in use was made from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from registry.channels.channels import Channel, earlier
from registry.db.tables import (
    artifacts,
    channel_events,
    channels,
    content_events,
    edges,
    endpoints,
    gate_decisions,
    keys,
    leases,
    names,
)
from registry.errors import NotFound
from registry.leases import EVERYTHING, is_held
from registry.tenancy.endpoints import IN_GATEWAY
from registry.tenancy.rollouts import in_force

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class RetentionPolicy:
    """How much of the past keeps its files."""

    days: float = 14.0
    """Whatever was made in so many days, and what it was made from."""
    history: int = 10
    """So many latest events of each channel, and so many rollbacks of it."""


@dataclass(frozen=True)
class Reach:
    """Which artifacts keep their files; `roots` and `evidence` map an id to the reasons."""

    roots: Mapping[str, list[str]]
    through: Mapping[str, tuple[str, str]]
    """Id → the relation of, and the kept artifact that was made from it."""
    evidence: Mapping[str, list[str]]
    """Evaluations that decisions rest on; these stay without what they measured."""

    def keeps(self, artifact_id: str) -> bool:
        """Whether the artifact keeps its files."""
        return artifact_id in self.roots or artifact_id in self.through or artifact_id in self.evidence

    def why(self, artifact_id: str) -> list[str]:
        """The reasons why the artifact keeps its files; empty when it does not."""
        reasons = [*self.roots.get(artifact_id, []), *self.evidence.get(artifact_id, [])]
        if reasons or artifact_id not in self.through:
            return reasons
        steps: list[str] = []
        while artifact_id in self.through and artifact_id not in self.roots:
            relation, child = self.through[artifact_id]
            made = f"from that {child[:12]}" if steps else f"{child[:12]} was made from it"
            steps.append(f"{made} ({relation})")
            artifact_id = child
        return [f"{', '.join(steps)}; {self.roots[artifact_id][0]}"]


def reach(connection: Connection, keeping: RetentionPolicy, at: datetime) -> Reach:
    """What stays, seen at the time `at`. In a writing transaction, it stays true until that ends."""
    roots: dict[str, list[str]] = {}
    decided = _channels(connection, keeping.history, roots)
    _in_use(connection, roots)
    _recent(connection, at - timedelta(days=keeping.days), keeping.days, roots)
    return Reach(roots, _ancestors(connection, roots), _evidence(connection, decided))


def _add(roots: dict[str, list[str]], artifact_id: str, reason: str) -> None:
    roots.setdefault(artifact_id, []).append(reason)


def _channels(connection: Connection, history: int, roots: dict[str, list[str]]) -> dict[str, str]:
    """Adds what channels point to, pointed to lately, or could be rolled back to; returns the gate decisions
    behind these moves, with the reason to keep each."""
    decided: dict[str, str] = {}
    events: dict[str, dict[int, Row[Any]]] = {}
    query = select(channel_events).order_by(channel_events.c.channel, channel_events.c.generation)
    for row in connection.execute(query):
        events.setdefault(row.channel, {})[row.generation] = row
    for row in connection.execute(select(channels).order_by(channels.c.name)):
        past = events[row.name]
        _add(roots, row.artifact_id, f"channel {row.name} points to it")
        back = _rollbacks(Channel.model_validate(row._asdict()), list(past.values()), history)
        late = list(past)[-history:]
        for generation in sorted({*back, *late}):
            event, reason = past[generation], "had it" if generation in late else "can be rolled back to it"
            _add(roots, event.artifact_id, f"channel {row.name} {reason} (generation {generation})")
            by_gate = past[event.restores or generation]
            if by_gate.decision_id is not None:
                decided[by_gate.decision_id] = f"channel {row.name}, generation {by_gate.generation}"
    return decided


def _rollbacks(channel: Channel, past: list[Row[Any]], most: int) -> list[int]:
    """The generations that the next `most` rollbacks would restore, one after the other."""
    generations: list[int] = []
    while len(generations) < most:
        try:
            event = earlier(past, channel)
        except NotFound:
            break
        generations.append(event.generation)
        channel = channel.model_copy(
            update={"generation": event.generation, "artifact_id": event.artifact_id}
        )
    return generations


def _in_use(connection: Connection, roots: dict[str, list[str]]) -> None:
    for row in connection.execute(select(endpoints).where(endpoints.c.stopped.is_(None))):
        how = f"`tuneline endpoints stop {row.id}`"
        if row.url.startswith(IN_GATEWAY):
            how = f"a gateway's: take it out of serve.yaml and start again, or end all: {how[:-1]} --gateway`"
        _add(roots, row.artifact_id, f"endpoint {row.id} serves it ({how})")
    for row in connection.execute(select(leases).where(leases.c.host.is_not(None))):
        if is_held(row):
            held = json.loads(row.holds or "[]")
            for artifact_id in _all(connection) if EVERYTHING in held else held:
                host = row.host.split(" ")[0]
                _add(roots, artifact_id, f"stage {row.stage} reads it (pid {row.pid} on {host})")
    for rollout in in_force(connection).values():
        _add(
            roots,
            rollout.candidate,
            f"channel {rollout.channel} has it in a rollout since {rollout.at:%Y-%m-%d}",
        )
    for row in connection.execute(select(names).order_by(names.c.sequence)):
        _add(roots, row.artifact_id, f"it is called {row.name}@{row.version}")


def _all(connection: Connection) -> list[str]:
    return list(connection.execute(select(artifacts.c.id)).scalars())


def _recent(connection: Connection, since: datetime, days: float, roots: dict[str, list[str]]) -> None:
    """Whatever was made, bound to a memo key, or restored since; times are UTC and sort as text."""
    cut = since.isoformat(timespec="microseconds")
    times: dict[str, str] = {}
    for column, at in (
        (artifacts.c.id, artifacts.c.created),
        (keys.c.artifact_id, keys.c.created),
        (content_events.c.artifact_id, content_events.c.at),
    ):
        query = select(column, at).where(at >= cut)
        if at is content_events.c.at:
            query = query.where(content_events.c.action == "restored")
        for artifact_id, when in connection.execute(query):
            times[artifact_id] = max(when, times.get(artifact_id, ""))
    for artifact_id, when in times.items():
        _add(roots, artifact_id, f"it was made on {when[:10]}, within {days:g} days")


def _ancestors(connection: Connection, roots: Iterable[str]) -> dict[str, tuple[str, str]]:
    parents: dict[str, list[tuple[str, str]]] = {}
    # A dataset is whole without the one whose held-out rows it goes on with, which may hold forgotten ones.
    needed = edges.c.relation != "grown_from"
    for row in connection.execute(select(edges.c.child, edges.c.relation, edges.c.parent).where(needed)):
        parents.setdefault(row.child, []).append((row.relation, row.parent))
    calibrated = select(artifacts.c.id, artifacts.c.quant_calibration_dataset)
    calibrated = calibrated.where(artifacts.c.quant_calibration_dataset.is_not(None))
    for child, dataset in connection.execute(calibrated):
        parents.setdefault(child, []).append(("calibrated_on", dataset))
    through: dict[str, tuple[str, str]] = {}
    waiting = list(roots)
    for child in waiting:
        for relation, parent in parents.get(child, ()):
            if parent not in through:
                through[parent] = (relation, child)
                waiting.append(parent)
    return through


def _evidence(connection: Connection, decided: Mapping[str, str]) -> dict[str, list[str]]:
    """The evaluations that these decisions name, and those of the models that they judged."""
    reasons: dict[str, list[str]] = {}
    kinds = select(artifacts.c.id).where(artifacts.c.kind == "evaluation")
    evaluations = set(connection.execute(kinds).scalars()) if decided else set()
    for decision_id, move in decided.items():
        query = select(gate_decisions).where(gate_decisions.c.id == decision_id)
        row = connection.execute(query).one()
        judged = [artifact_id for artifact_id in (row.candidate, row.baseline) if artifact_id is not None]
        measured = select(edges.c.child).where(
            edges.c.parent.in_(judged) & (edges.c.relation == "evaluation_of")
        )
        # Evidence names items by digest too, and these by the thousand.
        named = {*_DIGEST.findall(row.evidence), *connection.execute(measured).scalars()}
        for artifact_id in sorted(named & evaluations):
            _add(reasons, artifact_id, f"gate decision {decision_id[:12]} rests on it ({move})")
    return reasons
