"""An engine's embeddings, passed on: states of the model that it holds, whatever adapter a tenant has."""

from __future__ import annotations

import json
import re

import aiohttp
from aiohttp import web

from serving.errors import ServingError
from serving.gateway.relay import refusal
from serving.gateway.replica import READ_SECONDS, Replica
from serving.gateway.request_context import Embedding, Recorder, RequestContext
from serving.gateway.upstream import ATTEMPTS, unavailable
from serving.openai_api.embeddings import EmbeddingsRequest
from serving.openai_api.errors import ApiError

_TOKENS = re.compile(rb'"usage":\s*\{"prompt_tokens":\s*([0-9]{1,15})\b')
_END_BYTES = 256
"""Of an answer, in which its tokens stand; before them are megabytes of numbers, which nobody reads here."""


async def answer(
    context: RequestContext,
    embedding: Embedding,
    request: EmbeddingsRequest,
    replica: Replica,
    recorder: Recorder,
) -> web.Response:
    """The engine's answer, or its refusal. Raises `ApiError`."""
    recorder.reached_engine(context)
    for attempt in range(1, ATTEMPTS + 1):
        embedding.begun = True
        try:
            async with replica.embed(request, embedding.tenant.salt, context.id) as reply:
                return await _pass_on(context, embedding, reply)
        except TimeoutError:  # one of aiohttp's is a lost connection too; the texts would take as long again
            message = f"the texts took longer than {READ_SECONDS:g} s; send fewer in a request"
            raise ApiError(message, "input", 503, "unavailable") from None
        except aiohttp.ClientConnectionError as error:  # the engine died, and nobody has had anything of it
            embedding.begun = False
            if attempt == ATTEMPTS:
                raise unavailable(error) from None
    raise AssertionError("unreachable")


async def _pass_on(
    context: RequestContext, embedding: Embedding, reply: aiohttp.ClientResponse
) -> web.Response:
    try:
        body = await reply.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unavailable(error) from None
    embedding.begun, context.status = reply.status == 200, reply.status
    if reply.status >= 500:
        raise unavailable(ServingError(f"it answered {reply.status}"))
    headers = context.headers | {"x-tuneline-artifact": embedding.artifact_id}
    headers["content-type"] = "application/json"
    if "retry-after" in reply.headers:
        headers["retry-after"] = reply.headers["retry-after"]
    if not embedding.begun:
        refused = refusal(body, reply.status)
        context.reason, body = refused.code, json.dumps(refused.body).encode()
    elif found := _TOKENS.search(body[-_END_BYTES:]):
        embedding.prompt_tokens = int(found[1])
    return web.Response(body=body, status=reply.status, headers=headers)
