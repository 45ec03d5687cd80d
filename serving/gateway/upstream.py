"""An engine's answer to one request, and its way to the client."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web

from serving.errors import AdapterRefused, NotServable, Overloaded, ServingError
from serving.gateway.admission import TooMany
from serving.gateway.relay import Events, TokenUsage, opening, refusal, to_client
from serving.gateway.replica import Replica
from serving.gateway.request_context import Completion, Recorder, RequestContext
from serving.openai_api.errors import ApiError
from serving.openai_api.responses.answer import ResponseWriter
from serving.openai_api.responses.request import in_its_words
from serving.openai_api.responses.stream import ResponseStream
from serving.tracebacks import frames

log = logging.getLogger("tuneline.gateway")

ATTEMPTS = 2
"""An engine that died before its answer began has produced no output yet, so a retry is safe."""


async def answer(
    context: RequestContext, completion: Completion, replica: Replica, path: Path, recorder: Recorder
) -> web.StreamResponse:
    """The engine's answer, or its refusal; `path`: the artifact's files. Raises `ApiError`."""
    usage, tenant = completion.usage, completion.tenant
    for attempt in range(1, ATTEMPTS + 1):
        async with _acquired(replica, completion.decision.artifact_id, path) as name:
            if attempt == 1:
                recorder.reached_engine(context)
            usage.begun = True  # also for a client that is gone before the answer comes
            try:
                async with replica.ask(usage.request, name, tenant.salt, context.id) as reply:
                    # 404: the engine was started again just now
                    if reply.status != 404 or attempt == ATTEMPTS:
                        return await _pass_on(context, completion, reply)
                usage.begun = False
            except aiohttp.ClientConnectionError as error:
                usage.begun = False
                if attempt == ATTEMPTS:
                    raise unavailable(error) from None
    raise AssertionError("unreachable")


async def _pass_on(
    context: RequestContext, completion: Completion, reply: aiohttp.ClientResponse
) -> web.StreamResponse:
    usage = completion.usage
    stream, echo = usage.request.stream, usage.request.echo
    writer = None if echo is None else ResponseWriter(usage.request.model, echo)
    usage.begun = reply.status == 200
    try:
        context.status, body = await opening(reply, stream)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unavailable(error) from None
    usage.begun = context.status == 200
    if context.status >= 500:
        raise unavailable(ServingError(f"it answered {context.status}"))
    headers = context.headers | {"x-tuneline-artifact": completion.decision.artifact_id}
    headers["content-type"] = reply.headers.get("content-type", "application/json")
    if "retry-after" in reply.headers:
        headers["retry-after"] = reply.headers["retry-after"]
    if not usage.begun:
        refused = refusal(body, context.status)
        refused = refused if writer is None else in_its_words(refused)
        context.reason, body = refused.code, json.dumps(refused.body).encode()
        headers["content-type"] = "application/json"
    elif not stream:
        usage.whole(body)
        body = body if writer is None else _as_response(writer, body, usage)
    if not usage.begun or not stream:
        return web.Response(body=body, status=context.status, headers=headers)
    response = context.response = web.StreamResponse(headers=headers | {"cache-control": "no-store"})
    await response.prepare(context.http)
    await _stream(response, body, reply, usage, writer)
    return response


def _as_response(writer: ResponseWriter, body: bytes, usage: TokenUsage) -> bytes:
    try:
        return json.dumps(writer.whole(json.loads(body)), ensure_ascii=False).encode()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        usage.failed = True
        raise unavailable(ServingError("its answer is not that to a chat")) from None


async def _stream(
    response: web.StreamResponse,
    first: bytes,
    reply: aiohttp.ClientResponse,
    usage: TokenUsage,
    writer: ResponseWriter | None,
) -> None:
    events = Events(usage, None if writer is None else ResponseStream(writer))
    try:
        await _write(response, events.feed(first))
        async for chunk in reply.content.iter_any():
            await _write(response, events.feed(chunk))
        await _write(response, events.end())
    except (aiohttp.ClientError, TimeoutError):
        usage.failed = True
        await _write(response, events.broken())
    with to_client():
        await response.write_eof()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    if data:
        with to_client():
            await response.write(data)  # ends by a cut connection where nobody reads (`connections`)


@contextlib.asynccontextmanager
async def _acquired(replica: Replica, artifact_id: str, path: Path) -> AsyncIterator[str]:
    """`Replica.acquire`, with what can go wrong in a client's words."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            name = await stack.enter_async_context(replica.acquire(artifact_id, path))
        except Overloaded as error:
            raise TooMany(str(error), "overloaded", 1) from None
        except (AdapterRefused, NotServable) as error:
            log.error("artifact %s: %s", artifact_id[:12], error)  # it names paths, which no client needs
            message = f"the engine does not take artifact {artifact_id[:12]}; the gateway's log says why"
            raise ApiError(message, None, 409, "incompatible_artifact") from None
        except ServingError as error:
            raise unavailable(error) from None
        yield name


def unavailable(error: Exception) -> ApiError:
    """What a client is told of an engine that gave no answer; the log gets why."""
    log.warning("no answer from an engine: %s", error if isinstance(error, ServingError) else frames(error))
    message = "the engine gave no answer, it may be starting again; try again"
    return ApiError(message, None, 503, "unavailable")
