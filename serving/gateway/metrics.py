"""The gateway's numbers, in the OpenMetrics text format that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from serving.gateway.directory import Directory
from serving.gateway.router import Router

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counted by tenant, for so many tenants; the others share the label `(other)`, which is no name."""

    def __init__(self, tenants: int) -> None:
        self._most = tenants
        self._labels: dict[str, str] = {}
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "tuneline"}
        self.requests = Counter(
            "gateway_requests", "Requests by tenant, status and arm", ["tenant", "status", "arm"], **own
        )
        self.rejections = Counter(
            "gateway_rejections", "Requests refused, by tenant and reason", ["tenant", "reason"], **own
        )
        self.tokens = Counter("gateway_tokens", "Tokens of answered requests", ["tenant", "kind"], **own)
        self.first_token = Histogram(
            "gateway_time_to_first_token_seconds", "From a request's arrival to the first text of its answer",
            ["tenant"], buckets=_SECONDS, **own,
        )  # fmt: skip
        self.gap = Histogram(
            "gateway_inter_token_seconds", "Mean time between two tokens of a streamed answer", ["tenant"],
            buckets=_GAPS, **own,
        )  # fmt: skip
        self.seconds = Histogram(
            "gateway_request_seconds", "From a request's arrival to the end of its answer", ["tenant"],
            buckets=_SECONDS, **own,
        )  # fmt: skip
        self.added = Histogram(
            "gateway_overhead_seconds", "From a request's arrival to its going to the engine", [],
            buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1, 1), **own,
        )  # fmt: skip
        self.shadows = Counter(
            "gateway_shadows", "Shadow requests, by what became of them", ["outcome"], **own
        )
        self.under_way = Gauge("gateway_requests_under_way", "Requests that are being answered", **own)

    def tenant(self, name: str | None) -> str:
        """The label for a tenant; requests without a valid key have an empty one."""
        if name is None:
            return ""
        if name not in self._labels:
            self._labels[name] = name if len(self._labels) < self._most else "(other)"
        return self._labels[name]

    def watch(self, fleet: Router, directory: Directory) -> None:
        """Ask the engines and the directory for their numbers whenever somebody reads the metrics."""
        self.registry.register(_Live(fleet, directory))

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self.registry)


class _Live:
    """What is looked up rather than counted."""

    def __init__(self, fleet: Router, directory: Directory) -> None:
        self._fleet, self._directory = fleet, directory

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "tuneline_gateway_registry_age_seconds", "Since the registry last answered", self._directory.age
        )
        for name, text, read in (
            ("up", "1 while the engine takes requests", lambda one: one.engine.up),
            ("requests", "Requests given to the engine and not answered", lambda one: one.line.inside),
            ("expected_wait_seconds", "What the next request would wait", lambda one: one.line.wait()),
            ("adapters", "Adapters loaded", lambda one: len(one.engine.loaded)),
            ("adapter_slots", "Adapters that may be loaded", lambda one: one.engine.slots),
        ):
            gauge = GaugeMetricFamily(f"tuneline_engine_{name}", text, labels=["engine"])
            for place in self._fleet.places:
                gauge.add_metric([place.name], float(read(place)))
            yield gauge
        events = CounterMetricFamily(
            "tuneline_engine_adapter_events",
            "Adapter hits, loads, evictions, refusals",
            labels=["engine", "event"],
        )
        restarts = CounterMetricFamily(
            "tuneline_engine_restarts", "How often the engine was started again", labels=["engine"]
        )
        for place in self._fleet.places:
            for event in ("hits", "loads", "evictions", "refusals"):
                events.add_metric([place.name, event], getattr(place.pool.counts, event))
            restarts.add_metric([place.name], place.engine.restarts)
        yield events
        yield restarts
