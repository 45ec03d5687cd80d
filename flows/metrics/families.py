"""Every metric of `tuneline metrics`: name, kind, labels and meaning; docs/operations.md lists the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


class Family(NamedTuple):
    """A metric. A counter's name is written without `_total`, which Prometheus adds."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"


_CHANNEL = ("channel",)
FAMILIES: tuple[Family, ...] = (
    Family("tuneline_registry_up", "1 if this scrape could read the registry"),
    Family("tuneline_registry_read_seconds", "How long this scrape took to read the registry and the runs"),
    Family("tuneline_registry_artifacts", "Published artifacts by kind", ("kind",)),
    Family("tuneline_registry_channels", "Channels; series of a channel exist for the 500 that moved last"),
    Family("tuneline_registry_tenants", "Tenants; series of a tenant exist for the first 500 by name"),
    Family("tuneline_channel_info", "What the channel points to", (*_CHANNEL, "artifact", "kind", "method")),
    Family("tuneline_channel_generation", "Grows by one with each move of the channel", _CHANNEL),
    Family("tuneline_channel_moved_timestamp_seconds", "When the channel moved last", _CHANNEL),
    Family(
        "tuneline_channel_lineage_timestamp_seconds",
        "When the newest artifact of a kind was made, among what the live artifact was made from",
        (*_CHANNEL, "kind"),
    ),
    Family(
        "tuneline_channel_waived_timestamp_seconds",
        "When the live artifact was promoted with a waiver; absent where a gate passed it",
        _CHANNEL,
    ),
    Family(
        "tuneline_channel_drift",
        "1 if the engine serves another artifact than the channel points to, else 0",
        (*_CHANNEL, "engine"),
    ),
    Family("tuneline_channel_rollout_percent", "Share of a rollout's arm", (*_CHANNEL, "arm")),
    Family(
        "tuneline_channel_gate_verdict",
        "1 for the verdict that promoted the live artifact; `waived` where there was none",
        (*_CHANNEL, "verdict"),
    ),
    Family(
        "tuneline_channel_gate_margin",
        "By how much the live artifact's confidence bound keeps a rule's limit, in the rule's unit",
        (*_CHANNEL, "rule", "verdict"),
    ),
    Family(
        "tuneline_channel_candidate_verdict",
        "1 for the latest verdict on another artifact against the live one",
        (*_CHANNEL, "candidate", "verdict"),
    ),
    Family(
        "tuneline_channel_score",
        "Score of the live artifact in its latest evaluation; low and high bound its 95 % interval",
        (*_CHANNEL, "task", "metric", "bound"),
    ),
    Family("tuneline_channel_score_items", "Items behind a score", (*_CHANNEL, "task", "metric")),
    Family(
        "tuneline_channel_hour_requests",
        "Requests of the last hour as gateways wrote them into the registry; `failed` is part of `all`",
        (*_CHANNEL, "arm", "count"),
    ),
    Family("tuneline_channel_hour_tokens", "Tokens of the last hour", (*_CHANNEL, "kind")),
    Family("tuneline_gate_decisions", "Gate decisions by verdict", ("verdict",), "counter"),
    Family("tuneline_gate_decided_timestamp_seconds", "When a verdict was last given", ("verdict",)),
    Family(
        "tuneline_endpoint_up",
        "1 while the process of an endpoint lives that nobody stopped; of endpoints of this host",
        ("endpoint", "channel", "engine"),
    ),
    Family("tuneline_tenant_day_tokens", "Tokens of today, UTC, by state", ("tenant", "state")),
    Family("tuneline_tenant_day_tokens_limit", "Tokens that the tenant may use in a day", ("tenant",)),
    Family("tuneline_runs", "Runs that this home remembers, by state", ("state",)),
    Family("tuneline_recipe_run_state", "1 for the state of the recipe's latest run", ("recipe", "state")),
    Family("tuneline_recipe_run_timestamp_seconds", "When the recipe's latest run began", ("recipe",)),
    Family("tuneline_recipe_run_seconds", "How long the recipe's latest finished run took", ("recipe",)),
    Family(
        "tuneline_recipe_stage_seconds",
        "How long a step of the recipe's latest finished run took",
        ("recipe", "stage", "step"),
    ),
    Family("tuneline_stage_executions", "Executions by stage and host", ("stage", "host"), "counter"),
    Family("tuneline_stage_seconds", "Seconds of executions, by the clock", ("stage", "host"), "counter"),
    Family(
        "tuneline_stage_cpu_seconds",
        "Core seconds held by executions: seconds × the cores that the rates give the host",
        ("stage", "host"),
        "counter",
    ),
    Family(
        "tuneline_stage_gpu_seconds",
        "GPU seconds held by executions: seconds × the GPUs that the rates give the host",
        ("stage", "host"),
        "counter",
    ),
    Family("tuneline_stage_peak_bytes", "Largest memory of an execution", ("stage", "host")),
    Family("tuneline_store_blobs", "Files in the store"),
    Family("tuneline_store_bytes", "Bytes of the files in the store"),
    Family("tuneline_store_counted_timestamp_seconds", "When the store was counted last"),
    Family("tuneline_store_disk_free_bytes", "Free bytes on the disk of the store, or of its cache here"),
    Family("tuneline_store_disk_bytes", "Size of that disk"),
    Family("tuneline_verify_artifacts", "Artifacts by their latest verification's outcome", ("outcome",)),
    Family("tuneline_verify_timestamp_seconds", "When an artifact was verified last"),
    Family(
        "tuneline_verify_problems",
        "Problems that the latest verification of a damaged artifact found; of 20 artifacts at most",
        ("artifact",),
    ),
    Family("tuneline_rate_engine_hour", "The rates' price of an engine's hour", ("engine", "currency")),
    Family("tuneline_rate_thousand_tokens", "The rates' price of a thousand tokens", ("currency",)),
    Family(
        "tuneline_run_cost", "Cost of the stages of one of the newest 20 runs", ("recipe", "run", "currency")
    ),
    Family(
        "tuneline_artifact_cost",
        "Cost of all executions behind a channel's live artifact",
        ("channel", "artifact", "currency"),
    ),
    Family("tuneline_tenant_day_cost", "What a tenant's tokens of today cost it", ("tenant", "currency")),
    Family(
        "tuneline_thousand_tokens_cost",
        "Cost of the engines up now for an hour, by a thousand tokens of the last hour",
        ("currency",),
    ),
)
_BY_NAME = {family.name: family for family in FAMILIES}
Labels = tuple[str, ...]


def made(name: str, samples: Iterable[tuple[Labels, float]]) -> GaugeMetricFamily | CounterMetricFamily:
    """The family with its samples. Raises KeyError for a name that `FAMILIES` does not have."""
    family = _BY_NAME[name]
    kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
    metric = kind(name, family.text, labels=list(family.labels))
    for labels, value in samples:
        metric.add_metric(list(labels), float(value))
    return metric
