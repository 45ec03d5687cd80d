"""One request as it is answered, and what is written down of it: numbers, never words."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field
from functools import cached_property

from aiohttp import web

from registry.tenancy.tenants import Tenant
from serving.gateway import tracing
from serving.gateway.metrics import Metrics
from serving.gateway.relay import TokenUsage
from serving.gateway.rollout.decision import RoutingDecision
from serving.gateway.rollout.outcomes import Outcomes, RequestOutcome
from serving.gateway.routes import Route, route_of

log = logging.getLogger("tuneline.gateway")


@dataclass
class RequestContext:
    """What is known of a request so far."""

    http: web.BaseRequest
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    tenant: Tenant | None = None
    chosen: RoutingDecision | None = None
    generation: int = 0
    tally: TokenUsage | None = None
    status: int = 0
    reason: str | None = None
    """Why it was refused, in one word."""
    response: web.StreamResponse | None = None
    """Set once a stream has begun: from then on there is no other status to give."""

    @cached_property
    def route(self) -> Route:
        """Where it went; malformed bytes count as going nowhere."""
        return route_of(self.http.method, self.http.raw_path)

    @property
    def headers(self) -> dict[str, str]:
        """Of every answer; the server's name alone, where the library would tell its version too."""
        return {"x-request-id": self.id, "server": "tuneline"}


class Recorder:
    """Writes ended requests into the metrics, the outcomes and the log."""

    def __init__(self, metrics: Metrics, outcomes: Outcomes) -> None:
        self._metrics, self._outcomes = metrics, outcomes

    def ended(self, exchange: RequestContext) -> None:
        """Count it; once for each request."""
        seconds = time.monotonic() - exchange.began
        name = exchange.tenant.name if exchange.tenant else None
        label, chosen = self._metrics.tenant(name), exchange.chosen
        arm = chosen.arm if chosen else ""
        self._metrics.requests.labels(label, exchange.status, arm).inc()
        if exchange.reason:
            self._metrics.rejections.labels(label, exchange.reason).inc()
        if exchange.tally is not None and exchange.tally.begun:
            self._answered(exchange, exchange.tally, label, seconds)
        line = self._line(exchange, name, arm, seconds)
        log.info("request", extra={"request": line})
        tracing.record(exchange.route.path, exchange.http.headers.get("traceparent"), seconds, line)

    def _answered(self, exchange: RequestContext, tally: TokenUsage, label: str, seconds: float) -> None:
        prompt, said = tally.prompt_tokens or 0, tally.completion_tokens or tally.pieces
        self._metrics.seconds.labels(label).observe(seconds)
        self._metrics.tokens.labels(label, "prompt").inc(prompt)
        self._metrics.tokens.labels(label, "completion").inc(said)
        first = None
        if tally.first is not None and tally.last is not None:
            first = tally.first - exchange.began
            self._metrics.first_token.labels(label).observe(first)
            if tally.asked.stream and tally.pieces > 1:
                self._metrics.gap.labels(label).observe((tally.last - tally.first) / (tally.pieces - 1))
        if exchange.reason != "client_gone":
            assert exchange.tenant is not None
            assert exchange.chosen is not None
            self._outcomes.add(
                RequestOutcome(
                    exchange.tenant.channel, exchange.generation, exchange.chosen.artifact_id,
                    exchange.chosen.arm, tally.failed, tally.reason, prompt, said, seconds, first,
                )
            )  # fmt: skip

    def _line(
        self, exchange: RequestContext, tenant: str | None, arm: str, seconds: float
    ) -> dict[str, object]:
        tally = exchange.tally
        return {
            "id": exchange.id, "tenant": tenant, "method": exchange.route.method,
            "route": exchange.route.path, "status": exchange.status, "reason": exchange.reason,
            "arm": arm or None, "seconds": round(seconds, 4),
            "artifact": exchange.chosen.artifact_id if exchange.chosen else None,
            "prompt_tokens": tally.prompt_tokens if tally else None,
            "completion_tokens": tally.completion_tokens if tally else None,
        }  # fmt: skip
