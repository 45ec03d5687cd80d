"""What each channel points to: how old it is, what its gate said, how it scored, and what it is asked."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, case, func, select

from registry.db.serving_tables import outcomes
from registry.db.tables import artifacts, channel_events, channels, edges, gate_decisions

_NOT_MADE_FROM = ("compared_with", "evaluated_on", "evaluation_of")
"""Relations to what was looked at, and not worked into the artifact."""
OUTCOMES_OF = timedelta(hours=1)


@dataclass(frozen=True)
class ChannelStanding:
    """Where a channel points; `released` is the event that first brought the artifact there, of which a
    rollback is none."""

    name: str
    artifact_id: str
    kind: str
    method: str | None
    generation: int
    moved: datetime
    decision_id: str | None
    released: datetime


@dataclass(frozen=True)
class Ancestor:
    """Something that a live artifact was made from, or the artifact itself."""

    id: str
    kind: str
    created: datetime


@dataclass(frozen=True)
class Rule:
    """A rule of a decision. `margin` is how far the bound that counts is on the good side of the limit."""

    name: str
    verdict: str
    margin: float | None


@dataclass(frozen=True)
class Decided:
    """A gate decision."""

    verdict: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class CandidateVerdict:
    """What was decided last about something that may take a live artifact's place."""

    artifact_id: str
    verdict: str


@dataclass(frozen=True)
class MetricScore:
    """A metric of an evaluation, with its 95 % interval over `n` items."""

    task: str
    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ArtifactTraffic:
    """What one artifact answered for a channel in one arm within the last hour."""

    channel: str
    artifact_id: str
    arm: str
    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    last: datetime


@dataclass
class Documents:
    """Decisions and evaluations that were read already; they never change, so each is parsed once."""

    decisions: dict[str, Decided] = field(default_factory=dict)
    scores: dict[str, list[MetricScore]] = field(default_factory=dict)


def standings(connection: Connection, most: int) -> list[ChannelStanding]:
    """The `most` channels that moved last."""
    columns = (channels, artifacts.c.kind, artifacts.c.quant_method)
    query = select(*columns).join(artifacts, artifacts.c.id == channels.c.artifact_id)
    rows = list(connection.execute(query.order_by(channels.c.moved.desc(), channels.c.name).limit(most)))
    events = _releases(connection, {row.name: row.generation for row in rows})
    return [
        ChannelStanding(
            row.name, row.artifact_id, row.kind, row.quant_method, row.generation,
            datetime.fromisoformat(row.moved), events[row.name].decision_id,
            datetime.fromisoformat(events[row.name].at),
        )
        for row in rows
    ]  # fmt: skip


def _releases(connection: Connection, generations: dict[str, int]) -> dict[str, Row[Any]]:
    """The move behind each channel's generation: through rollbacks, the one that they restore."""
    events, waiting = dict[str, Row[Any]](), generations
    while waiting:
        query = select(channel_events).where(
            channel_events.c.channel.in_(list(waiting)),
            channel_events.c.generation.in_(list(set(waiting.values()))),
        )
        rows = [row for row in connection.execute(query) if waiting[row.channel] == row.generation]
        events |= {row.channel: row for row in rows}
        waiting = {row.channel: row.restores for row in rows if row.restores is not None}
    return events


def ancestors(connection: Connection, ids: Collection[str]) -> dict[str, list[Ancestor]]:
    """Each of the artifacts with all that went into it."""
    made_from = edges.c.relation.notin_(_NOT_MADE_FROM)
    above = select(edges.c.child.label("root"), edges.c.parent).where(edges.c.child.in_(ids), made_from)
    tree = above.cte("above", recursive=True)
    tree = tree.union(
        select(tree.c.root, edges.c.parent).join(tree, edges.c.child == tree.c.parent).where(made_from)
    )
    rows = connection.execute(select(tree.c.root, tree.c.parent))
    of: dict[str, list[str]] = {artifact_id: [artifact_id] for artifact_id in ids}
    for root, parent in rows:
        of[root].append(parent)
    wanted = {member for members in of.values() for member in members}
    columns = (artifacts.c.id, artifacts.c.kind, artifacts.c.created)
    known = {
        row.id: Ancestor(row.id, row.kind, datetime.fromisoformat(row.created))
        for row in connection.execute(select(*columns).where(artifacts.c.id.in_(wanted)))
    }
    return {root: [known[member] for member in members] for root, members in of.items()}


def decisions(connection: Connection, ids: Collection[str], read: dict[str, Decided]) -> dict[str, Decided]:
    """The decisions of these ids; what is in `read` already is not read again."""
    new = [decision_id for decision_id in ids if decision_id not in read]
    columns = (gate_decisions.c.id, gate_decisions.c.verdict, gate_decisions.c.evidence)
    for row in connection.execute(select(*columns).where(gate_decisions.c.id.in_(new))):
        rules = [
            rule for rule in json.loads(row.evidence).get("rules", ()) if {"rule", "verdict"} <= rule.keys()
        ]
        read[row.id] = Decided(row.verdict, tuple(_rule(rule) for rule in rules))
    return {decision_id: read[decision_id] for decision_id in ids if decision_id in read}


def _rule(rule: Mapping[str, Any]) -> Rule:
    limit, low, high = (rule.get(key) for key in ("threshold", "low", "high"))
    at_most = rule.get("kind") == "ceiling" or (
        rule.get("kind") == "fidelity" and not rule["rule"].endswith("/same_top")
    )
    if at_most:
        bound = rule.get("effect") if high is None else high
        margin = None if limit is None or bound is None else limit - bound
    else:
        margin = None if limit is None or low is None else low - limit
    return Rule(rule["rule"], "waived" if rule.get("waived") else rule["verdict"], margin)


def candidates(connection: Connection, ids: Collection[str]) -> dict[str, CandidateVerdict]:
    """Live artifact → what was decided last about another one in comparison with it."""
    decided = gate_decisions.c
    about = decided.baseline.in_(ids) & (decided.candidate != decided.baseline)
    latest = select(func.max(decided.sequence)).where(about).group_by(decided.baseline)
    query = select(decided.baseline, decided.candidate, decided.verdict).where(decided.sequence.in_(latest))
    return {row.baseline: CandidateVerdict(row.candidate, row.verdict) for row in connection.execute(query)}


def scores(
    connection: Connection, ids: Collection[str], read: dict[str, list[MetricScore]]
) -> dict[str, list[MetricScore]]:
    """Live artifact → the scores of its latest evaluation."""
    of = (edges.c.relation == "evaluation_of") & edges.c.parent.in_(ids)
    latest = select(edges.c.parent, func.max(artifacts.c.sequence).label("sequence"))
    latest = latest.join(artifacts, artifacts.c.id == edges.c.child).where(of).group_by(edges.c.parent)
    newest = latest.subquery()
    query = select(newest.c.parent, artifacts.c.id).join(artifacts, artifacts.c.sequence == newest.c.sequence)
    evaluation_of = {row.parent: row.id for row in connection.execute(query)}
    new = {evaluation for evaluation in evaluation_of.values() if evaluation not in read}
    for row in connection.execute(
        select(artifacts.c.id, artifacts.c.manifest).where(artifacts.c.id.in_(new))
    ):
        read[row.id] = list(_scores(json.loads(row.manifest)["metrics"]))
    return {artifact_id: read[evaluation] for artifact_id, evaluation in evaluation_of.items()}


def _scores(metrics: Mapping[str, Any]) -> Iterable[MetricScore]:
    measured = dict(metrics.get("tasks") or {})
    measured |= {task: result["metrics"] for task, result in (metrics.get("fidelity") or {}).items()}
    for task, of_task in measured.items():
        for name, metric in of_task.items():
            if isinstance(metric, Mapping) and {"value", "low", "high", "n"} <= metric.keys():
                yield MetricScore(
                    task, name, metric["value"], metric["low"], metric["high"], int(metric["n"])
                )


def traffic(connection: Connection, names: Collection[str], at: datetime) -> list[ArtifactTraffic]:
    """The channels' outcomes of the last hour, by artifact and arm."""
    since = (at - OUTCOMES_OF).astimezone(UTC).isoformat(timespec="minutes")
    columns = outcomes.c
    sums = [func.sum(columns[name]).label(name) for name in ("requests", "failed")]
    sums += [func.sum(columns[f"{kind}_tokens"]).label(f"{kind}_tokens") for kind in ("prompt", "completion")]
    last = func.max(case((columns.requests > 0, columns.minute), else_="")).label("last")
    query = select(columns.channel, columns.artifact_id, columns.arm, *sums, last)
    query = query.where(columns.channel.in_(names), columns.minute >= since)
    rows = connection.execute(query.group_by(columns.channel, columns.artifact_id, columns.arm))
    return [
        ArtifactTraffic(
            row.channel, row.artifact_id, row.arm, int(row.requests), int(row.failed),
            int(row.prompt_tokens), int(row.completion_tokens), datetime.fromisoformat(row.last),
        )
        for row in rows
        if row.last
    ]  # fmt: skip
