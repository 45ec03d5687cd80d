"""One request: who asks, for what, may they, which artifact answers, on which engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from registry.channels.channels import Channel
from registry.tenancy.rollouts import Rollout
from registry.tenancy.tenants import Tenant
from serving.gateway import embedding, upstream
from serving.gateway.admission import AdmissionQueue, Concurrency, RateLimiter
from serving.gateway.budgets.ledger import Ledger
from serving.gateway.config import Bounds, EngineSection
from serving.gateway.directory import Directory
from serving.gateway.feedback.receipts import Receipts
from serving.gateway.incoming import authorization, body_of
from serving.gateway.relay import TokenUsage
from serving.gateway.replica import Replica
from serving.gateway.request_context import Completion, Embedding, Recorder, RequestContext
from serving.gateway.request_policy import (
    GatewayRequest,
    limits_of,
    read,
    read_embeddings,
    read_response,
)
from serving.gateway.rollout.decision import choose
from serving.gateway.rollout.shadow import Shadows
from serving.gateway.router import Router
from serving.gateway.routes import COMPLETIONS, EMBEDDINGS, FEEDBACK, METHODS, MODEL, MODELS, RESPONSES
from serving.openai_api.answers import ModelList, ModelObject, model_list, model_object
from serving.openai_api.embeddings import EmbeddingsRequest
from serving.openai_api.errors import ApiError
from serving.openai_api.request import LACKING
from serving.tracebacks import frames

log = logging.getLogger("tuneline.gateway")


@dataclass(eq=False)
class App:
    """The application behind the gateway's port."""

    directory: Directory
    router: Router
    ledger: Ledger
    recorder: Recorder
    shadows: Shadows
    receipts: Receipts
    bounds: Bounds
    _rates: RateLimiter = field(default_factory=RateLimiter)
    _concurrency: Concurrency = field(default_factory=Concurrency)
    _broken: set[int] = field(default_factory=set)
    """Rollouts whose candidate no engine takes."""

    def __post_init__(self) -> None:
        lacking = (lacking_of(replica.section) for replica in self.router.replicas)
        self.limits = limits_of(self.bounds, frozenset.intersection(*lacking))

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, and write down that it was."""
        context = RequestContext(http)
        with self.recorder.recording(context):
            try:
                return await self._answer(context)
            except ApiError as error:
                return _refusal(context, error)
            except (ConnectionError, asyncio.CancelledError):
                context.status, context.reason = context.status or 499, "client_gone"
                raise
            except Exception as error:
                log.error("request %s: %s", context.id, frames(error))
                message = "the gateway failed; its log says why"
                return _refusal(context, ApiError(message, None, 500, "internal"))

    def malformed(self, http: web.BaseRequest, why: str) -> web.StreamResponse:
        """The answer to bytes that are not an HTTP request."""
        context = RequestContext(http)
        with self.recorder.recording(context):
            return _refusal(context, ApiError(f"this is not valid HTTP: {why}", None, 400, "invalid_http"))

    async def _answer(self, context: RequestContext) -> web.StreamResponse:
        route = context.route
        route.require()
        key = self.directory.key(authorization(context.http))
        tenant = context.tenant = self.directory.state.tenants[key.tenant]
        context.key_id = key.id
        if route.path in (MODELS, MODEL):
            models = self._models(tenant, route.model)
            context.status = 200
            return web.json_response(models, headers=context.headers)
        self._rates.take(tenant.name, tenant.limits.requests_per_minute)
        with self._concurrency.hold(tenant.name, tenant.limits.concurrency):
            body = await body_of(context.http, self.bounds)
            if route.path == FEEDBACK:
                return await self._feedback(context, tenant, body)
            if route.path == EMBEDDINGS:
                return await self._embed(context, tenant, read_embeddings(body, self.limits))
            if route.path == RESPONSES:
                return await self._complete(context, tenant, read_response(body, self.limits))
            return await self._complete(context, tenant, read(body, COMPLETIONS[route.path], self.limits))

    async def _feedback(self, context: RequestContext, tenant: Tenant, body: bytes) -> web.Response:
        consent = self.directory.state.consents.get(tenant.name)
        answer = await self.receipts.take(context.key_id, consent, body)
        context.status = 200
        return web.json_response(answer, headers=context.headers)

    def _models(self, tenant: Tenant, wanted: str | None) -> ModelObject | ModelList:
        """The tenant's only model, or the list of it where none is named."""
        channel = self.directory.state.channels.get(tenant.channel)
        models = [] if channel is None else [model_object(channel.name, int(channel.moved.timestamp()))]
        if wanted is None:
            return model_list(models)
        if not models or wanted != tenant.channel:
            raise _no_model(wanted)
        return models[0]

    async def _embed(
        self, context: RequestContext, tenant: Tenant, request: EmbeddingsRequest
    ) -> web.StreamResponse:
        """States of the model behind the channel's own artifact; of a rollout's candidate none.

        Vectors of two models cannot be compared, and a tenant keeps what it got.
        """
        if request.model != tenant.channel:
            raise _no_model(request.model)
        _, live = self._live(tenant)
        replica, _ = await self.router.replica_for(live)
        replica.require_embeddings()
        context.engine = replica.name
        found = context.embedding = Embedding(tenant, replica.artifact.id)
        bound = replica.embeddings_bound(request)
        async with self._turn(
            tenant, replica.texts, bound, lambda: found.used(bound), lambda: found.prompt_tokens is not None
        ):
            return await embedding.answer(context, found, request, replica, self.recorder)

    async def _complete(
        self, context: RequestContext, tenant: Tenant, request: GatewayRequest
    ) -> web.StreamResponse:
        """Answer, with as many answers under way as are asked for."""
        if request.model != tenant.channel:
            raise _no_model(request.model)
        most = tenant.limits.concurrency
        if most is not None and request.n > most:
            message = f"n: {most} answers to this key may be under way at once; ask for no more"
            raise ApiError(message, "n")
        with self._concurrency.hold(tenant.name, most, request.n - 1):
            return await self._answered(context, tenant, request)

    async def _answered(
        self, context: RequestContext, tenant: Tenant, request: GatewayRequest
    ) -> web.StreamResponse:
        """By the channel's artifact; by a rollout's candidate as long as an engine takes that."""
        while True:
            completion, rollout = self._decide(context, tenant, request)
            decision = completion.decision
            try:
                replica, path = await self.router.replica_for(decision.artifact_id)
                response = await self._charged(context, completion, replica, path)
            except ApiError as error:
                if decision.arm != "canary" or rollout is None or error.status != 409:
                    raise
                self._broken.add(rollout.sequence)
                log.error("rollout %d of %s cannot be served: %s", rollout.sequence, rollout.channel, error)
                continue
            if decision.shadow is not None and response.status == 200 and not completion.usage.failed:
                live = "".join(completion.usage.texts)
                self.shadows.ask(decision.shadow, request, tenant, completion.generation, live)
            return response

    def _live(self, tenant: Tenant) -> tuple[Channel, str]:
        """The tenant's channel, and the artifact that answers for it."""
        channel = self.directory.state.channels.get(tenant.channel)
        if channel is None:
            message = f"{tenant.channel} has no model yet: nothing was promoted to it"
            raise ApiError(message, "model", 404, "model_not_found")
        return channel, self.router.serving_artifact(channel.name, channel.artifact_id)

    def _decide(
        self, context: RequestContext, tenant: Tenant, request: GatewayRequest
    ) -> tuple[Completion, Rollout | None]:
        """Which artifact answers, and the rollout that this is due to."""
        state = self.directory.state
        channel, live = self._live(tenant)
        rollout = state.rollouts.get(tenant.channel)
        if rollout is not None and rollout.sequence in self._broken:
            rollout = None
        conversation = context.http.headers.get("x-conversation-id") or request.conversation
        decision = choose(live, rollout, f"{tenant.name} {conversation}")
        consent = state.consents.get(tenant.name)
        sampled = self.receipts.sampled(consent, request)
        checked = rollout is not None and rollout.canary_percent > 0 and request.n == 1
        usage = TokenUsage(request, keep_text=sampled or checked or decision.shadow is not None)
        generation = channel.generation
        context.completion = Completion(tenant, decision, generation, usage, consent, sampled, checked)
        return context.completion, rollout

    async def _charged(
        self, context: RequestContext, completion: Completion, replica: Replica, path: Path
    ) -> web.StreamResponse:
        """The replica's answer, once it is the request's turn."""
        tenant, usage = completion.tenant, completion.usage
        bound, context.engine = replica.token_bound(usage.request), replica.name

        def used() -> int:
            return usage.used(replica.prompt_bound(usage.request), bound)

        answered, places = (lambda: usage.first is not None), usage.request.n
        async with self._turn(tenant, replica.queue, bound, used, answered, places):
            return await upstream.answer(context, completion, replica, path, self.recorder)

    @contextlib.asynccontextmanager
    async def _turn(
        self,
        tenant: Tenant,
        queue: AdmissionQueue,
        bound: int,
        used: Callable[[], int],
        answered: Callable[[], bool],
        places: int = 1,
    ) -> AsyncIterator[None]:
        """Inside the block it is the request's turn; its tokens are settled however that ends.

        `bound`: tokens that it can use at most; `used`: those to charge; `answered`: whether the engine
        worked for it; `places`: answers that it asks for.
        """
        queue.enter(places)
        try:
            reservation = await self.ledger.reserve(tenant.name, bound, tenant.limits.tokens_per_day)
            try:
                yield
            finally:
                self.ledger.settle(reservation, used())
        finally:
            queue.leave(answered(), places)


def lacking_of(section: EngineSection) -> frozenset[str]:
    """Fields that the engine does not do."""
    parser = section.engine == "vllm" and section.tool_call_parser is not None
    return LACKING[section.engine] - ({"tools"} if parser else set())


def _no_model(name: str) -> ApiError:
    message = f"this key has no model {name[:80]!r}; GET /v1/models lists what it has"
    return ApiError(message, "model", 404, "model_not_found")


def _refusal(context: RequestContext, error: ApiError) -> web.StreamResponse:
    """The error in OpenAI's shape; in the middle of a stream its connection can only be cut."""
    context.reason = error.code
    if context.response is not None:
        raise ConnectionResetError(str(error))
    context.status = error.status
    headers = context.headers
    if error.status in (429, 503):
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 405:
        headers["allow"] = METHODS[context.route.path]
    body = json.dumps(error.body).encode()
    return web.Response(body=body, status=error.status, headers=headers, content_type="application/json")
