"""Everything that is watched in a registry, of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from registry import content
from registry.monitoring import channels, totals
from registry.monitoring.channels import (
    Ancestor,
    ArtifactTraffic,
    CandidateVerdict,
    ChannelStanding,
    Decided,
    Documents,
    MetricScore,
)
from registry.monitoring.totals import Counts, StageTotals, TenantUse
from registry.registry import Registry
from registry.tenancy.endpoints import Endpoint, rows
from registry.tenancy.rollouts import Rollout, in_force

MOST_CHANNELS = 500
"""The channels that moved last; each has some twenty series, and Prometheus keeps them all."""
MOST_TENANTS = 500


@dataclass(frozen=True)
class State:
    """What one reading transaction saw; mappings have the ids of live artifacts as keys."""

    at: datetime
    counts: Counts
    channels: list[ChannelStanding]
    ancestors: Mapping[str, list[Ancestor]]
    decisions: Mapping[str, Decided]
    candidates: Mapping[str, CandidateVerdict]
    scores: Mapping[str, list[MetricScore]]
    traffic: list[ArtifactTraffic]
    rollouts: Mapping[str, Rollout]
    tenants: list[TenantUse]
    damaged: Mapping[str, int]
    """Artifact → problems that its latest verification here found; those without content are left out."""
    endpoints: list[Endpoint]


class RegistryWatch:
    """Reads a registry again and again; what never changes is read once. For one thread at a time."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._documents = Documents()
        self.stages = StageTotals()

    def read(self, problems: Mapping[str, int]) -> State:
        """The state now; `problems`: what verifications found, by artifact. Raises RegistryError."""
        at = datetime.now(UTC)
        with self._registry.database.read() as connection:
            self.stages.update(connection)
            standing = channels.standings(connection, MOST_CHANNELS)
            names = [channel.name for channel in standing]
            live = {channel.artifact_id for channel in standing}
            decided = {channel.decision_id for channel in standing if channel.decision_id is not None}
            gone = content.collected(connection, list(problems)) if problems else {}
            return State(
                at,
                totals.counts(connection),
                standing,
                channels.ancestors(connection, live),
                channels.decisions(connection, decided, self._documents.decisions),
                channels.candidates(connection, live),
                channels.scores(connection, live, self._documents.scores),
                channels.traffic(connection, names, at),
                in_force(connection),
                totals.tenant_use(connection, f"{at:%Y-%m-%d}", MOST_TENANTS),
                {artifact: number for artifact, number in problems.items() if artifact not in gone},
                rows(connection, running_only=True),
            )
