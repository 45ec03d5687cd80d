"""The families of what serves: channels, gates, scores, endpoints and tenants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from prometheus_client.core import Metric

from flows.metrics.families import Labels, made
from registry.monitoring.channels import ArtifactTraffic, ChannelStanding
from registry.monitoring.state import State
from registry.tenancy.endpoints import Endpoint

GATEWAY = "gateway"
"""The engine of a drift that a gateway's outcomes show."""
Samples = Iterator[tuple[Labels, float]]


def fleet(state: State, alive: Mapping[str, bool]) -> Iterator[Metric]:
    """All families of a state; `alive`: which endpoints' processes run, by id."""
    counts = state.counts
    yield made("tuneline_registry_artifacts", (((kind,), n) for kind, n in counts.artifacts.items()))
    yield made("tuneline_registry_channels", [((), counts.channels)])
    yield made("tuneline_registry_tenants", [((), counts.tenants)])
    yield made("tuneline_channel_info", (
        ((c.name, c.artifact_id[:12], c.kind, c.method or ""), 1) for c in state.channels
    ))  # fmt: skip
    yield made("tuneline_channel_generation", (((c.name,), c.generation) for c in state.channels))
    moved = (((c.name,), c.moved.timestamp()) for c in state.channels)
    yield made("tuneline_channel_moved_timestamp_seconds", moved)
    yield made("tuneline_channel_lineage_timestamp_seconds", _lineage(state))
    waived = (((c.name,), c.released.timestamp()) for c in state.channels if c.decision_id is None)
    yield made("tuneline_channel_waived_timestamp_seconds", waived)
    yield made("tuneline_channel_drift", drift(state, alive))
    yield made("tuneline_channel_rollout_percent", _rollouts(state))
    yield from _gates(state)
    yield from _scores(state)
    yield from _traffic(state.traffic)
    yield made("tuneline_endpoint_up", (
        ((e.id, e.channel or "", e.engine), alive[e.id]) for e in state.endpoints
    ))  # fmt: skip
    yield from _tenants(state)


def _lineage(state: State) -> Samples:
    for channel in state.channels:
        newest: dict[str, datetime] = {}
        for ancestor in state.ancestors[channel.artifact_id]:
            newest[ancestor.kind] = max(ancestor.created, newest.get(ancestor.kind, ancestor.created))
        for kind, created in newest.items():
            yield (channel.name, kind), created.timestamp()


def drift(state: State, alive: Mapping[str, bool]) -> Samples:
    """(channel, engine) and whether that engine serves something else than the channel points to."""
    standing = {channel.name: channel for channel in state.channels}
    drifted: dict[Labels, bool] = {}
    for endpoint in state.endpoints:
        channel = standing.get(endpoint.channel or "")
        if channel is not None and alive[endpoint.id]:
            drifted[channel.name, endpoint.engine] = endpoint.artifact_id != channel.artifact_id
    latest: dict[str, ArtifactTraffic] = {}
    for traffic in state.traffic:
        if traffic.arm == "live" and traffic.last >= latest.get(traffic.channel, traffic).last:
            latest[traffic.channel] = traffic
    for name, traffic in latest.items():
        drifted[name, GATEWAY] = _serves_another(standing[name], traffic)
    return ((labels, is_so) for labels, is_so in drifted.items())


def _serves_another(channel: ChannelStanding, latest: ArtifactTraffic) -> bool:
    """Whether the gateway answered with another artifact in a minute that began after the move."""
    return latest.artifact_id != channel.artifact_id and latest.last > channel.moved


def _rollouts(state: State) -> Samples:
    for name, rollout in state.rollouts.items():
        yield (name, "canary"), rollout.canary_percent
        yield (name, "shadow"), rollout.shadow_percent


def _gates(state: State) -> Iterator[Metric]:
    verdicts, margins = dict[Labels, float](), dict[Labels, float]()
    for channel in state.channels:
        decided = state.decisions.get(channel.decision_id or "")
        verdicts[channel.name, "waived" if decided is None else decided.verdict] = 1
        for rule in () if decided is None else decided.rules:
            if rule.margin is not None:
                margins[channel.name, rule.name, rule.verdict] = rule.margin
    yield made("tuneline_channel_gate_verdict", verdicts.items())
    yield made("tuneline_channel_gate_margin", margins.items())
    yield made("tuneline_channel_candidate_verdict", (
        ((channel.name, candidate.artifact_id[:12], candidate.verdict), 1)
        for channel in state.channels
        if (candidate := state.candidates.get(channel.artifact_id)) is not None
    ))  # fmt: skip
    decisions = state.counts.decisions
    yield made("tuneline_gate_decisions", (((verdict,), n) for verdict, (n, _) in decisions.items()))
    latest = (((verdict,), at.timestamp()) for verdict, (_, at) in decisions.items())
    yield made("tuneline_gate_decided_timestamp_seconds", latest)


def _scores(state: State) -> Iterator[Metric]:
    scores, items = dict[Labels, float](), dict[Labels, float]()
    for channel in state.channels:
        for score in state.scores.get(channel.artifact_id, ()):
            labels = (channel.name, score.task, score.metric)
            items[labels] = score.n
            for bound in ("value", "low", "high"):
                scores[*labels, bound] = getattr(score, bound)
    yield made("tuneline_channel_score", scores.items())
    yield made("tuneline_channel_score_items", items.items())


def _traffic(hour: list[ArtifactTraffic]) -> Iterator[Metric]:
    requests, tokens = dict[Labels, float](), dict[Labels, float]()
    for part in hour:
        for count, number in (("all", part.requests), ("failed", part.failed)):
            labels = (part.channel, part.arm, count)
            requests[labels] = requests.get(labels, 0) + number
        for kind, number in (("prompt", part.prompt_tokens), ("completion", part.completion_tokens)):
            tokens[part.channel, kind] = tokens.get((part.channel, kind), 0) + number
    yield made("tuneline_channel_hour_requests", requests.items())
    yield made("tuneline_channel_hour_tokens", tokens.items())


def _tenants(state: State) -> Iterator[Metric]:
    yield made("tuneline_tenant_day_tokens", (
        ((tenant.name, kind), number)
        for tenant in state.tenants
        for kind, number in (("used", tenant.used), ("reserved", tenant.reserved))
    ))  # fmt: skip
    limits = (((tenant.name,), tenant.limit) for tenant in state.tenants if tenant.limit is not None)
    yield made("tuneline_tenant_day_tokens_limit", limits)


def living(endpoints: list[Endpoint]) -> dict[str, bool]:
    """Which of the endpoints' processes run on this host, by the endpoint's id."""
    return {endpoint.id: endpoint.process.is_alive() for endpoint in endpoints}
