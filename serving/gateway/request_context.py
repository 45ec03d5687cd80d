"""One request as it is answered, and what is written down of it: numbers, and a client's words only where
its tenant agreed to that (`feedback.receipts`)."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from aiohttp import web

from registry.tenancy.consents import Consent
from registry.tenancy.tenants import Tenant
from serving.gateway import tracing
from serving.gateway.feedback.receipts import Receipts
from serving.gateway.metrics import Metrics
from serving.gateway.relay import TokenUsage
from serving.gateway.rollout.decision import Arm, RoutingDecision
from serving.gateway.rollout.outcomes import OutcomeRecorder, RequestOutcome
from serving.gateway.routes import Route, route_of

log = logging.getLogger("tuneline.gateway")


@dataclass(frozen=True)
class Completion:
    """A completion on its way: whose it is, which artifact answers, and what is known of the answer."""

    tenant: Tenant
    decision: RoutingDecision
    generation: int
    """Of the tenant's channel."""
    usage: TokenUsage
    consent: Consent | None = None
    sampled: bool = False
    """Whether the tenant agreed to have this one's words kept."""
    checked: bool = False
    """Whether it is looked at for JSON."""


@dataclass
class Embedding:
    """Embeddings on their way: whose they are, which model's states, and what is known of their tokens."""

    tenant: Tenant
    artifact_id: str
    """Of the model that the engine holds."""
    begun: bool = False
    """Whether an engine was given the texts, and neither refused them nor died before it answered."""
    prompt_tokens: int | None = None

    def used(self, reserved: int) -> int:
        """The tokens to charge: as the engine counted them, else all that it could take."""
        if self.prompt_tokens is not None:
            return self.prompt_tokens
        return reserved if self.begun else 0


@dataclass
class RequestContext:
    """What is known of a request so far."""

    http: web.BaseRequest
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    tenant: Tenant | None = None
    key_id: str = ""
    completion: Completion | None = None
    """Set once it is known which artifact answers."""
    embedding: Embedding | None = None
    """Set in its place where embeddings are asked for."""
    engine: str = ""
    """The engine that it was given to, by the gateway's name for it."""
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

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.monotonic() - self.began


class Recorder:
    """Writes ended requests into the metrics, the outcomes, the log and, where agreed, the receipts."""

    def __init__(self, metrics: Metrics, outcomes: OutcomeRecorder, receipts: Receipts) -> None:
        self._metrics, self._outcomes, self._receipts = metrics, outcomes, receipts

    @contextlib.contextmanager
    def recording(self, context: RequestContext) -> Iterator[None]:
        """A request is being answered inside the block."""
        self._metrics.under_way.inc()
        try:
            yield
        finally:
            self._metrics.under_way.dec()
            self._ended(context)

    def reached_engine(self, context: RequestContext) -> None:
        """The request goes to an engine now."""
        self._metrics.overhead.observe(context.seconds)

    def _ended(self, context: RequestContext) -> None:
        seconds, completion = context.seconds, context.completion
        label = self._metrics.tenant(context.tenant.name if context.tenant else None)
        arm = completion.decision.arm if completion else ""
        self._metrics.requests.labels(label, context.status, arm).inc()
        if context.reason:
            self._metrics.rejections.labels(label, context.reason).inc()
        if completion is not None and completion.usage.begun:
            self._answered(context, completion, label, seconds)
        elif context.embedding is not None and context.embedding.begun:
            self._embedded(context.embedding, label, seconds)
        elif completion is not None and context.status >= 500:
            self._outcomes.add(RequestOutcome(*_of(completion), True, context.reason, 0, 0, seconds, None))
        entry = self._entry(context, seconds)
        log.info("request", extra={"request": entry})
        tracing.record(context.route.path, context.http.headers.get("traceparent"), seconds, entry)

    def _answered(self, context: RequestContext, completion: Completion, label: str, seconds: float) -> None:
        usage = completion.usage
        prompt, answer = usage.prompt_tokens or 0, usage.completion_tokens or usage.pieces
        self._metrics.seconds.labels(label).observe(seconds)
        self._metrics.tokens.labels(label, "prompt").inc(prompt)
        self._metrics.tokens.labels(label, "completion").inc(answer)
        self._metrics.engine_tokens.labels(context.engine).inc(answer)
        first = None
        if usage.first is not None and usage.last is not None:
            first = usage.first - context.began
            self._metrics.first_token.labels(label).observe(first)
            self._metrics.engine_first_token.labels(context.engine).observe(first)
            if usage.request.stream and usage.pieces > 1:
                gap = (usage.last - usage.first) / (usage.pieces - 1)
                self._metrics.gap.labels(label).observe(gap)
                self._metrics.engine_gap.labels(context.engine).observe(gap)
        if completion.consent is not None and context.reason is None and not usage.failed:
            channel, sampled = completion.tenant.channel, completion.sampled
            asked = (context.id, context.key_id, completion.consent, channel)
            self._receipts.add(*asked, completion.decision, usage, sampled)
        if context.reason != "client_gone":
            of = _of(completion)
            # a reason: an engine that ended between its headers and its answer, or a fault of the gateway
            failed = usage.failed or context.reason is not None
            is_json = usage.is_json if completion.checked and not failed else None
            self._outcomes.add(
                RequestOutcome(*of, failed, usage.reason, prompt, answer, seconds, first, None, is_json)
            )

    def _embedded(self, embedding: Embedding, label: str, seconds: float) -> None:
        """No outcome of the channel: a candidate gets none, and the two are compared by what both get."""
        self._metrics.seconds.labels(label).observe(seconds)
        self._metrics.tokens.labels(label, "prompt").inc(embedding.prompt_tokens or 0)

    def _entry(self, context: RequestContext, seconds: float) -> dict[str, object]:
        """A line of the log."""
        completion, embedding = context.completion, context.embedding
        usage = completion.usage if completion else None
        artifact = completion.decision.artifact_id if completion else None
        read = usage.prompt_tokens if usage else None
        return {
            "id": context.id,
            "tenant": context.tenant.name if context.tenant else None,
            "method": context.route.method,
            "route": context.route.path,
            "status": context.status,
            "reason": context.reason,
            "arm": completion.decision.arm if completion else None,
            "seconds": round(seconds, 4),
            "artifact": embedding.artifact_id if embedding else artifact,
            "prompt_tokens": embedding.prompt_tokens if embedding else read,
            "completion_tokens": usage.completion_tokens if usage else None,
        }


def _of(completion: Completion) -> tuple[str, int, str, Arm]:
    """What its outcome is counted for."""
    decision = completion.decision
    return completion.tenant.channel, completion.generation, decision.artifact_id, decision.arm
