"""One request: who asks, for what, may they, which artifact answers, on which engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web

from registry.tenancy.rollouts import Rollout
from registry.tenancy.tenants import Tenant
from serving.errors import AdapterRefused, NotServable, Overloaded, ServingError
from serving.gateway.admission import Concurrency, Rates, TooMany
from serving.gateway.config import Bounds
from serving.gateway.directory import Directory
from serving.gateway.incoming import authorization, body_of
from serving.gateway.ledger import Ledger
from serving.gateway.metrics import Metrics
from serving.gateway.relay import Events, TokenUsage, opening, refusal, to_client
from serving.gateway.replica import Replica
from serving.gateway.request_context import Recorder, RequestContext
from serving.gateway.request_policy import GatewayRequest, limits_of, read
from serving.gateway.rollout.decision import RoutingDecision, choose
from serving.gateway.rollout.outcomes import Outcomes
from serving.gateway.rollout.shadow import Shadows
from serving.gateway.router import Router
from serving.gateway.routes import COMPLETIONS, METHODS, MODEL, MODELS
from serving.openai_api.errors import ApiError
from serving.openai_api.request import LACKING
from serving.tracebacks import frames

log = logging.getLogger("tuneline.gateway")

ATTEMPTS = 2
"""An engine that died before its answer began has been asked for nothing yet."""


class App:
    """The application behind the gateway's port."""

    def __init__(
        self, directory: Directory, fleet: Router, ledger: Ledger, outcomes: Outcomes, metrics: Metrics,
        shadows: Shadows, bounds: Bounds,
    ) -> None:  # fmt: skip
        self._directory, self._fleet, self._ledger = directory, fleet, ledger
        self._metrics, self._shadows, self._bounds = metrics, shadows, bounds
        self._recorder = Recorder(metrics, outcomes)
        self._rates, self._concurrency = Rates(), Concurrency()
        lacking = frozenset.intersection(*(LACKING[place.section.engine] for place in fleet.places))
        self._limits = limits_of(bounds, lacking)
        self._broken: set[int] = set()
        """Rollouts whose candidate no engine takes."""

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, and write down that it was."""
        exchange = RequestContext(http)
        self._metrics.under_way.inc()
        try:
            return await self._answer(exchange)
        except ApiError as error:
            return _refusal(exchange, error)
        except (ConnectionError, asyncio.CancelledError):
            exchange.status, exchange.reason = exchange.status or 499, "client_gone"
            raise
        except Exception as error:
            log.error("request %s: %s", exchange.id, frames(error))
            return _refusal(exchange, ApiError("the gateway failed; its log says why", None, 500, "internal"))
        finally:
            self._metrics.under_way.dec()
            self._recorder.ended(exchange)

    def malformed(self, http: web.BaseRequest, why: str) -> web.StreamResponse:
        """The answer to bytes that are no HTTP request."""
        exchange = RequestContext(http)
        try:
            return _refusal(exchange, ApiError(f"this is no valid HTTP: {why}", None, 400, "invalid_http"))
        finally:
            self._recorder.ended(exchange)

    async def _answer(self, exchange: RequestContext) -> web.StreamResponse:
        http, route = exchange.http, exchange.route
        route.require()
        tenant = exchange.tenant = self._directory.tenant(authorization(http))
        if route.path in (MODELS, MODEL):
            found = self._models(tenant, route.model)
            exchange.status = 200
            return web.json_response(found, headers=exchange.headers)
        self._rates.take(tenant.name, tenant.limits.requests_per_minute)
        self._concurrency.enter(tenant.name, tenant.limits.concurrency)
        try:
            asked = read(await body_of(http, self._bounds), COMPLETIONS[route.path], self._limits)
            if asked.model != tenant.channel:
                raise _no_model(asked.model)
            exchange.tally = TokenUsage(asked)
            return await self._served(exchange, tenant, exchange.tally)
        finally:
            self._concurrency.leave(tenant.name)

    def _models(self, tenant: Tenant, wanted: str | None) -> dict[str, object]:
        """The tenant's only model, or the list of it where none is named."""
        channel = self._directory.state.channels.get(tenant.channel)
        data: list[dict[str, object]] = []
        if channel is not None:
            created = int(channel.moved.timestamp())
            data = [{"id": channel.name, "object": "model", "created": created, "owned_by": "tuneline"}]
        if wanted is None:
            return {"object": "list", "data": data}
        if not data or wanted != tenant.channel:
            raise _no_model(wanted)
        return data[0]

    async def _served(
        self, exchange: RequestContext, tenant: Tenant, tally: TokenUsage
    ) -> web.StreamResponse:
        place, path = await self._chosen(exchange, tenant, tally.asked)
        chosen = exchange.chosen
        assert chosen is not None
        tally.keep_text = chosen.shadow is not None
        response = None
        place.line.enter()
        try:
            response = await self._charged(exchange, place, path, tenant, tally)
        except ApiError as error:
            if not self._gave_up(chosen, self._directory.state.rollouts.get(tenant.channel), error):
                raise
        finally:
            place.line.leave(answered=tally.first is not None)
        if response is None:
            return await self._served(exchange, tenant, tally)
        if chosen.shadow is not None and response.status == 200 and not tally.failed:
            said = "".join(tally.texts)
            self._shadows.ask(chosen.shadow, tally.asked, tenant, exchange.generation, said)
        return response

    async def _charged(
        self, exchange: RequestContext, place: Replica, path: Path, tenant: Tenant, tally: TokenUsage
    ) -> web.StreamResponse:
        bound = place.token_bound(tally.asked)
        reservation = await self._ledger.reserve(tenant.name, bound, tenant.limits.tokens_per_day)
        try:
            return await self._from_engine(exchange, place, path, tenant, tally)
        finally:
            self._ledger.settle(reservation, tally.used(place.prompt_bound(tally.asked), bound))

    async def _chosen(
        self, exchange: RequestContext, tenant: Tenant, asked: GatewayRequest
    ) -> tuple[Replica, Path]:
        """Which artifact answers, and where; a candidate that cannot be served leaves it to the live one."""
        state = self._directory.state
        channel = state.channels.get(tenant.channel)
        if channel is None:
            said = f"{tenant.channel} has no model yet: nothing was promoted to it"
            raise ApiError(said, "model", 404, "model_not_found")
        exchange.generation = channel.generation
        rollout = state.rollouts.get(tenant.channel)
        if rollout is not None and rollout.sequence in self._broken:
            rollout = None
        live = self._fleet.standing(channel.name, channel.artifact_id)
        given = exchange.http.headers.get("x-conversation-id") or asked.conversation
        chosen = exchange.chosen = choose(live, rollout, f"{tenant.name} {given}")
        try:
            return await self._fleet.place_for(chosen.artifact_id)
        except ApiError as error:
            if not self._gave_up(chosen, rollout, error):
                raise
        return await self._chosen(exchange, tenant, asked)

    def _gave_up(self, chosen: RoutingDecision, rollout: Rollout | None, error: ApiError) -> bool:
        """Whether a candidate is the trouble; then its rollout ends here, and the live artifact answers."""
        if chosen.arm != "canary" or rollout is None or error.status != 409:
            return False
        self._broken.add(rollout.sequence)
        log.error("rollout %d of %s cannot be served: %s", rollout.sequence, rollout.channel, error)
        return True

    async def _from_engine(
        self, exchange: RequestContext, place: Replica, path: Path, tenant: Tenant, tally: TokenUsage
    ) -> web.StreamResponse:
        assert exchange.chosen is not None
        artifact_id = exchange.chosen.artifact_id
        for attempt in range(1, ATTEMPTS + 1):
            async with _lent(place, artifact_id, path) as name:
                if attempt == 1:
                    self._metrics.added.observe(time.monotonic() - exchange.began)
                tally.begun = True  # also for a client that is gone before the answer comes
                try:
                    async with ask(place, tally.asked, name, tenant.salt, exchange.id) as answer:
                        # 404: the engine was started again just now
                        if answer.status != 404 or attempt == ATTEMPTS:
                            return await self._relay(exchange, answer, tally)
                    tally.begun = False
                except aiohttp.ClientConnectionError as error:
                    tally.begun = False
                    if attempt == ATTEMPTS:
                        raise _unavailable(error) from None
        raise AssertionError("unreachable")

    async def _relay(
        self, exchange: RequestContext, answer: aiohttp.ClientResponse, tally: TokenUsage
    ) -> web.StreamResponse:
        assert exchange.chosen is not None
        tally.begun = answer.status == 200
        try:
            exchange.status, body = await opening(answer, tally.asked.stream)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unavailable(error) from None
        headers = exchange.headers | {"x-tuneline-artifact": exchange.chosen.artifact_id}
        headers["content-type"] = answer.headers.get("content-type", "application/json")
        headers |= {name: answer.headers[name] for name in ("retry-after",) if name in answer.headers}
        tally.begun = exchange.status == 200
        if exchange.status >= 500:
            raise _unavailable(ServingError(f"it answered {exchange.status}"))
        if not tally.begun:
            refused = refusal(body, exchange.status)
            exchange.reason, body = refused.code, json.dumps(refused.body).encode()
            headers["content-type"] = "application/json"
        elif not tally.asked.stream:
            tally.whole(body)
        if not tally.begun or not tally.asked.stream:
            return web.Response(body=body, status=exchange.status, headers=headers)
        response = exchange.response = web.StreamResponse(headers=headers | {"cache-control": "no-store"})
        await response.prepare(exchange.http)
        await self._stream(response, body, answer, tally)
        return response

    async def _stream(
        self, response: web.StreamResponse, first: bytes, answer: aiohttp.ClientResponse, tally: TokenUsage
    ) -> None:
        events = Events(tally)
        try:
            await self._write(response, events.feed(first))
            async for chunk in answer.content.iter_any():
                await self._write(response, events.feed(chunk))
            await self._write(response, events.end())
        except (aiohttp.ClientError, TimeoutError):
            tally.failed = True
            body = ApiError("the engine ended in the middle of the answer", None, 503, "unavailable").body
            await self._write(response, b"data: " + json.dumps(body).encode() + b"\n\n")
        with to_client():
            await response.write_eof()

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        if data:
            with to_client():
                await response.write(data)  # ends by a cut connection where nobody reads (`door`)


def ask(
    place: Replica, asked: GatewayRequest, name: str, salt: str, request_id: str
) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """The engine's answer. Nothing of the client's request reaches it but the checked body."""
    route = "/v1/chat/completions" if asked.chat else "/v1/completions"
    return place.http.post(
        f"http://engine{route}", data=json.dumps(place.body(asked, name, salt), ensure_ascii=False).encode(),
        headers={"content-type": "application/json", "x-request-id": request_id},
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _lent(place: Replica, artifact_id: str, path: Path) -> AsyncIterator[str]:
    """`Replica.lend`, with what can go wrong in a client's words."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            name = await stack.enter_async_context(place.lend(artifact_id, path))
        except Overloaded as error:
            raise TooMany(str(error), "overloaded", 1) from None
        except (AdapterRefused, NotServable) as error:
            log.error("artifact %s: %s", artifact_id[:12], error)  # it names paths, which no client needs
            said = f"the engine does not take artifact {artifact_id[:12]}; the gateway's log says why"
            raise ApiError(said, None, 409, "incompatible_artifact") from None
        except ServingError as error:
            raise _unavailable(error) from None
        yield name


def _no_model(name: str) -> ApiError:
    said = f"this key has no model {name[:80]!r}; GET /v1/models lists what it has"
    return ApiError(said, "model", 404, "model_not_found")


def _unavailable(error: Exception) -> ApiError:
    said = error if isinstance(error, ServingError) else frames(error)
    log.warning("no answer from an engine: %s", said)
    return ApiError(
        "the engine gave no answer, it may be starting again; try again", None, 503, "unavailable"
    )


def _refusal(exchange: RequestContext, error: ApiError) -> web.StreamResponse:
    """The error in OpenAI's shape; in the middle of a stream its connection can only be cut."""
    exchange.reason = error.code
    if exchange.response is not None:
        raise ConnectionResetError(str(error))
    exchange.status = error.status
    headers = exchange.headers
    if error.status in (429, 503):
        headers["retry-after"] = str(error.retry_after if isinstance(error, TooMany) else 1)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 405:
        headers["allow"] = METHODS[exchange.route.path]
    body = json.dumps(error.body).encode()
    return web.Response(body=body, status=error.status, headers=headers, content_type="application/json")
