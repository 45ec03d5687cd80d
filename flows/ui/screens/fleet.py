"""The fleet: every channel with what it serves and how that fares, and what needs somebody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from markupsafe import Markup
from sqlalchemy import Connection, Row, and_, func, select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.run.runs import PastRun, past_runs
from flows.ui.alerts import Alert
from flows.ui.live import Look
from flows.ui.pages import page, part, registry_of
from registry import Registry
from registry.db.serving_tables import outcomes
from registry.db.tables import artifacts, channel_events, channels, endpoints, gate_decisions, names
from registry.monitoring.channels import standings
from registry.processes import ProcessId
from registry.tenancy import rollouts
from registry.tenancy.rollouts import Rollout

TRAFFIC = timedelta(hours=1)
RECENT = timedelta(days=7)
"""How old what needs somebody may be; older failures are history."""
WAIVED = timedelta(days=7)
"""A waiver is for now: what was promoted with one is to pass its gate, or to go, within that time."""
NEWEST_RUNS = 20
MOST_CHANNELS = 1000
OLDEST = 1.0
"""Seconds for which a fleet may be shown again: traffic and progress need not be newer, acts are."""


class ChannelTraffic(NamedTuple):
    """What a channel was asked in the last hour."""

    requests: int
    failed: int
    tokens: int

    @property
    def failed_share(self) -> float:
        return self.failed / self.requests if self.requests else 0.0


class EngineRow(NamedTuple):
    """An engine that is not marked as stopped; `state`: serving, other artifact, or gone."""

    id: str
    engine: str
    artifact_id: str
    url: str
    state: str


@dataclass(frozen=True)
class ChannelCard:
    """A channel as the fleet shows it."""

    name: str
    generation: int
    moved: str
    artifact_id: str
    kind: str
    artifact_name: str | None
    decision_id: str | None
    verdict: str | None
    who: str | None
    reason: str | None
    rollout: Rollout | None
    engines: list[EngineRow]
    traffic: ChannelTraffic

    @property
    def drift(self) -> bool:
        """Whether some engine of the channel serves what the channel no longer points to."""
        return any(engine.state == "other artifact" for engine in self.engines)


class Attention(NamedTuple):
    """What needs somebody: a word for it, what it is, where to look, since when."""

    tone: str
    word: str
    text: str
    address: str
    at: datetime


class Rendered:
    """The fleet as it was rendered last, for everybody who looks until somebody acts."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._of: object = None
        self._at = -OLDEST
        self._main = Markup("")

    def main(self, registry: Registry, alerts: list[Alert], told: object) -> Markup:
        """The page without what is around it; at most `OLDEST` seconds old.

        `told`: what open pages were last told of, so that they see that when they ask.
        """
        with self._lock:
            now, state = time.monotonic(), (self._look.acts(), alerts, told)
            if now - self._at >= OLDEST or state != self._of:
                self._main, self._of, self._at = _render(registry, alerts), state, now
            return self._main


def _fleet(request: Request) -> Response:
    state = request.app.state
    main = state.fleet.main(registry_of(request), state.alerts.ls(), state.changes.last)
    return page(request, "fleet.html", main=main)


def _render(registry: Registry, alerts: list[Alert]) -> Markup:
    with registry.database.read() as connection:
        cards = channel_cards(connection)
        waiting = [*_undecided(connection), *_passed_and_waiting(connection), *_waived(connection)]
        counts = {row.kind: row[1] for row in connection.execute(_COUNTS)}
    drifting = [
        Attention(
            "warn",
            "drift",
            f"{card.name}: an engine serves another artifact than the channel's",
            f"/channels/{card.name}",
            datetime.fromisoformat(card.moved),
        )
        for card in cards
        if card.drift
    ]
    alarms = [
        Attention("bad" if alert.labels.get("severity") == "page" else "warn", "alert", alert.summary,
                  alert.address, alert.at)
        for alert in alerts
    ]  # fmt: skip
    runs = past_runs(registry.home, NEWEST_RUNS)
    needs = [*alarms, *_failed(runs), *waiting, *drifting]
    needs.sort(key=lambda need: need.at, reverse=True)
    running = [run for run in runs if run.state == "running"]
    return part("fleet_main.html", cards=cards, needs=needs, counts=counts, running=running)


_COUNTS = select(artifacts.c.kind, func.count()).group_by(artifacts.c.kind)


def channel_cards(connection: Connection, only: str | None = None) -> list[ChannelCard]:
    """Every channel by name, or the one of this name."""
    latest = and_(
        channel_events.c.channel == channels.c.name, channel_events.c.generation == channels.c.generation
    )
    columns = (channels, channel_events.c.decision_id, channel_events.c.who, channel_events.c.reason)
    query = select(*columns, gate_decisions.c.verdict, artifacts.c.kind).join(channel_events, latest)
    query = query.join(artifacts, artifacts.c.id == channels.c.artifact_id)
    query = query.outerjoin(gate_decisions, gate_decisions.c.id == channel_events.c.decision_id)
    if only is not None:
        query = query.where(channels.c.name == only)
    rows = connection.execute(query.order_by(channels.c.name)).all()
    called = names_of(connection, [row.artifact_id for row in rows])
    tried, engines, traffic = rollouts.in_force(connection), _engines(connection), _traffic(connection)
    return [
        ChannelCard(
            **{field: getattr(row, field) for field in _PLAIN},
            artifact_name=called.get(row.artifact_id),
            rollout=tried.get(row.name),
            engines=[_engine(engine, row.artifact_id) for engine in engines.get(row.name, [])],
            traffic=traffic.get(row.name, ChannelTraffic(0, 0, 0)),
        )
        for row in rows
    ]


_PLAIN = ("name", "generation", "moved", "artifact_id", "kind", "decision_id", "verdict", "who", "reason")


def names_of(connection: Connection, ids: Iterable[str]) -> dict[str, str]:
    """The latest `name@version` of each artifact that has one."""
    query = select(names).where(names.c.artifact_id.in_(list(ids))).order_by(names.c.sequence)
    return {row.artifact_id: f"{row.name}@{row.version}" for row in connection.execute(query)}


def _engines(connection: Connection) -> dict[str, list[Row[Any]]]:
    query = select(endpoints).where(endpoints.c.stopped.is_(None) & endpoints.c.channel.is_not(None))
    by_channel: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(query.order_by(endpoints.c.sequence.desc())):
        by_channel.setdefault(row.channel, []).append(row)
    return by_channel


def _engine(row: Row[Any], serves: str) -> EngineRow:
    state = "serving" if row.artifact_id == serves else "other artifact"
    if not ProcessId(row.pid, row.pid_started).is_alive():
        state = "gone"
    return EngineRow(row.id, row.engine, row.artifact_id, row.url, state)


def _traffic(connection: Connection) -> dict[str, ChannelTraffic]:
    since = (datetime.now(UTC) - TRAFFIC).isoformat(timespec="minutes")
    tokens = func.sum(outcomes.c.prompt_tokens + outcomes.c.completion_tokens)
    query = select(outcomes.c.channel, func.sum(outcomes.c.requests), func.sum(outcomes.c.failed), tokens)
    query = query.where(outcomes.c.minute >= since).group_by(outcomes.c.channel)
    return {channel: ChannelTraffic(*map(int, sums)) for channel, *sums in connection.execute(query)}


def _failed(runs: Iterable[PastRun]) -> list[Attention]:
    since = datetime.now(UTC) - RECENT
    return [
        Attention(
            run.state,
            f"run {run.state}",
            f"{run.recipe}{f', at {run.stage}' if run.stage else ''}",
            f"/runs/{run.id}",
            run.started,
        )
        for run in runs
        if run.state in ("failed", "killed") and run.started >= since
    ]


def _undecided(connection: Connection) -> list[Attention]:
    """Decisions that did not pass, where no later one about the same candidate did."""
    later = gate_decisions.alias()
    passed = select(later.c.id).where(
        (later.c.candidate == gate_decisions.c.candidate) & (later.c.sequence > gate_decisions.c.sequence)
    )
    query = select(
        gate_decisions.c.id, gate_decisions.c.candidate, gate_decisions.c.verdict, gate_decisions.c.created
    )
    query = query.where((gate_decisions.c.verdict != "pass") & (gate_decisions.c.created >= _since()))
    query = query.where(~passed.exists()).order_by(gate_decisions.c.sequence.desc()).limit(10)
    return [
        Attention(
            row.verdict,
            f"gate {row.verdict}",
            f"candidate {row.candidate[:12]} was not promoted",
            f"/gates/{row.id}",
            datetime.fromisoformat(row.created),
        )
        for row in connection.execute(query)
    ]


def _passed_and_waiting(connection: Connection) -> list[Attention]:
    """Candidates whose gate passed against what a channel serves now, and that nobody promoted."""
    query = select(gate_decisions.c.id, gate_decisions.c.candidate, gate_decisions.c.created, channels.c.name)
    query = query.join(channels, channels.c.artifact_id == gate_decisions.c.baseline)
    query = query.where((gate_decisions.c.verdict == "pass") & (gate_decisions.c.created >= _since()))
    any_channel = channels.alias()
    live = select(any_channel.c.name).where(any_channel.c.artifact_id == gate_decisions.c.candidate)
    query = query.where(~live.exists()).order_by(gate_decisions.c.sequence.desc()).limit(10)
    return [
        Attention(
            "info",
            "waits",
            f"{row.candidate[:12]} passed its gate against what {row.name} serves",
            f"/channels/{row.name}/promote?artifact={row.candidate}",
            datetime.fromisoformat(row.created),
        )
        for row in connection.execute(query)
    ]


def _waived(connection: Connection) -> list[Attention]:
    """Channels that have served for long what no gate passed, as the alert `TunelineWaived` has it."""
    since = datetime.now(UTC) - WAIVED
    return [
        Attention(
            "warn",
            "waived",
            f"{channel.name} serves what no gate passed",
            f"/channels/{channel.name}",
            channel.released,
        )
        for channel in standings(connection, MOST_CHANNELS)
        if channel.decision_id is None and channel.released < since
    ]


def _since() -> str:
    return (datetime.now(UTC) - RECENT).isoformat(timespec="seconds")


routes = [Route("/", _fleet)]
