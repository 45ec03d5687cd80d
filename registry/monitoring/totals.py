"""What is counted over the whole registry: executions by stage, artifacts by kind, decisions, tenants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, select

from registry.db.serving_tables import budgets, tenants
from registry.db.tables import artifacts, channels, executions, gate_decisions


@dataclass
class StageTotal:
    """All executions of a stage on a host, which is known by its name."""

    executions: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0


class StageTotals:
    """Executions by (stage, host). They are only ever added, so each is read once."""

    def __init__(self) -> None:
        self._last = 0
        self._totals: dict[tuple[str, str], StageTotal] = {}
        self._of_artifacts: dict[str, dict[str, float]] = {}

    def update(self, connection: Connection) -> None:
        """Take in what was added since the last call."""
        columns = (executions.c.sequence, executions.c.artifact_id, executions.c.host, executions.c.seconds)
        query = select(*columns, executions.c.peak_bytes, artifacts.c.stage)
        query = query.join(artifacts, artifacts.c.id == executions.c.artifact_id)
        query = query.where(executions.c.sequence > self._last).order_by(executions.c.sequence)
        for row in connection.execute(query):
            host = row.host.partition(" ")[0]
            total = self._totals.setdefault((row.stage, host), StageTotal())
            total.executions += 1
            total.seconds += row.seconds
            total.peak_bytes = max(total.peak_bytes, row.peak_bytes or 0)
            seconds = self._of_artifacts.setdefault(row.artifact_id, {})
            seconds[host] = seconds.get(host, 0.0) + row.seconds
            self._last = row.sequence

    @property
    def by_stage(self) -> Mapping[tuple[str, str], StageTotal]:
        """(stage, host) → its total."""
        return self._totals

    def seconds(self, artifact_id: str) -> Mapping[str, float]:
        """Host → seconds of the executions that made the artifact."""
        return self._of_artifacts.get(artifact_id, {})


@dataclass(frozen=True)
class TenantUse:
    """A tenant's tokens of today (UTC); `limit` is None where there is none."""

    name: str
    channel: str
    used: int
    reserved: int
    limit: int | None


@dataclass(frozen=True)
class Counts:
    """How many artifacts of each kind, channels and tenants; gate decisions by verdict with their latest."""

    artifacts: Mapping[str, int]
    channels: int
    tenants: int
    decisions: Mapping[str, tuple[int, datetime]] = field(default_factory=dict)


def counts(connection: Connection) -> Counts:
    """What there is of each."""
    kinds = connection.execute(select(artifacts.c.kind, func.count()).group_by(artifacts.c.kind)).all()
    verdicts = select(gate_decisions.c.verdict, func.count(), func.max(gate_decisions.c.created))
    decided = connection.execute(verdicts.group_by(gate_decisions.c.verdict))
    return Counts(
        {row[0]: row[1] for row in kinds},
        connection.execute(select(func.count()).select_from(channels)).scalar_one(),
        connection.execute(select(func.count()).select_from(tenants)).scalar_one(),
        {verdict: (number, datetime.fromisoformat(latest)) for verdict, number, latest in decided},
    )


def tenant_use(connection: Connection, today: str, most: int) -> list[TenantUse]:
    """The first `most` tenants by name; `today` as YYYY-MM-DD."""
    mine = (budgets.c.tenant == tenants.c.name) & (budgets.c.day == today)
    columns = (tenants.c.name, tenants.c.channel, tenants.c.tokens_per_day)
    query = select(*columns, budgets.c.used, budgets.c.reserved).outerjoin(budgets, mine)
    rows = connection.execute(query.order_by(tenants.c.name).limit(most))
    return [
        TenantUse(row.name, row.channel, row.used or 0, row.reserved or 0, row.tokens_per_day) for row in rows
    ]
