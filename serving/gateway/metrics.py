"""The gateway's numbers, in the OpenMetrics text format that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from serving.gateway.directory import Directory
from serving.gateway.replica import Replica
from serving.gateway.router import Router

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_OVERHEADS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1, 1)
_SERVED = "1: answers are not as recorded, 2: taken out for that; none where all is well"
_GAUGES: tuple[tuple[str, str, Callable[[Replica], float]], ...] = (
    ("up", "1 while the engine takes requests", lambda replica: replica.engine.up),
    ("requests", "Answers that the engine owes", lambda replica: replica.owed),
    ("expected_wait_seconds", "What the next request would wait", lambda replica: replica.queue.wait()),
    ("adapters", "Adapters loaded", lambda replica: len(replica.engine.loaded)),
    ("adapter_slots", "Adapters that may be loaded", lambda replica: replica.engine.slots),
)


class Metrics:
    """Counted by tenant, for so many tenants; the others share the label `(other)`, which is no name."""

    def __init__(self, tenants: int) -> None:
        self._most = tenants
        self._labels: dict[str, str] = {}
        self.registry = CollectorRegistry()
        self.requests = self._count(
            "requests", "Requests by tenant, status and arm", "tenant", "status", "arm"
        )
        self.rejections = self._count(
            "rejections", "Requests refused, by tenant and reason", "tenant", "reason"
        )
        self.tokens = self._count("tokens", "Tokens of answered requests", "tenant", "kind")
        self.shadows = self._count("shadows", "Shadow requests, by what became of them", "outcome")
        self.first_token = self._seconds(
            "time_to_first_token", "From a request's arrival to the first text of its answer", _SECONDS
        )
        self.gap = self._seconds("inter_token", "Mean time between two tokens of a streamed answer", _GAPS)
        self.seconds = self._seconds("request", "From a request's arrival to the end of its answer", _SECONDS)
        self.engine_tokens = Counter(
            "tuneline_engine_completion_tokens", "Tokens of answers", ["engine"], registry=self.registry
        )
        self.engine_first_token = self._of_engine(
            "time_to_first_token", "From a request's arrival to the first text of its answer", _SECONDS
        )
        self.engine_gap = self._of_engine(
            "inter_token", "Mean time between two tokens of a streamed answer", _GAPS
        )
        self.served_checks = self._count("served_checks", "Recorded questions asked", "engine", "result")
        self.served_seconds = self._count("served_seconds", "Spent on recorded questions")
        self.served_state = Gauge(
            "tuneline_gateway_served_state", _SERVED, ["engine", "artifact"], registry=self.registry
        )
        self.overhead = Histogram(
            "tuneline_gateway_overhead_seconds",
            "From a request's arrival to its going to the engine",
            buckets=_OVERHEADS,
            registry=self.registry,
        )
        self.under_way = Gauge(
            "tuneline_gateway_requests_under_way", "Requests that are being answered", registry=self.registry
        )

    def _count(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"tuneline_gateway_{name}", text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        name = f"tuneline_gateway_{name}_seconds"
        return Histogram(name, text, ["tenant"], buckets=buckets, registry=self.registry)

    def _of_engine(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        name = f"tuneline_engine_{name}_seconds"
        return Histogram(name, text, ["engine"], buckets=buckets, registry=self.registry)

    def tenant(self, name: str | None) -> str:
        """The label for a tenant; requests without a valid key have an empty one."""
        if name is None:
            return ""
        if name not in self._labels:
            self._labels[name] = name if len(self._labels) < self._most else "(other)"
        return self._labels[name]

    def watch(self, router: Router, directory: Directory) -> None:
        """Ask the engines and the directory for their numbers whenever somebody reads the metrics."""
        self.registry.register(_Live(router, directory))

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self.registry)


class _Live:
    """What is looked up rather than counted."""

    def __init__(self, router: Router, directory: Directory) -> None:
        self._router, self._directory = router, directory

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "tuneline_gateway_registry_age_seconds", "Since the registry last answered", self._directory.age
        )
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(f"tuneline_engine_{name}", text, labels=["engine"])
            for replica in self._router.replicas:
                gauge.add_metric([replica.name], float(read(replica)))
            yield gauge
        text = "Adapter hits, loads, evictions, refusals"
        events = CounterMetricFamily("tuneline_engine_adapter_events", text, labels=["engine", "event"])
        text = "How often the engine was started again"
        restarts = CounterMetricFamily("tuneline_engine_restarts", text, labels=["engine"])
        for replica in self._router.replicas:
            for event in ("hits", "loads", "evictions", "refusals"):
                events.add_metric([replica.name, event], getattr(replica.pool.counts, event))
            restarts.add_metric([replica.name], replica.engine.restarts)
        yield events
        yield restarts
