"""One engine of the gateway: what it holds, who waits for it, and how to ask it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from registry import Artifact
from serving.engine.adapter_pool import AdapterPool
from serving.engine.answer_check import ExpectedAnswer
from serving.engine.capabilities import EMBEDDING_ENGINES, limits, texts_at_once
from serving.engine.protocol import Engine
from serving.engine.settings import EngineSettings
from serving.errors import RequestFailed
from serving.gateway.admission import AdmissionQueue
from serving.gateway.config import EngineSection
from serving.gateway.request_policy import GatewayRequest
from serving.llama_cpp.engine import LlamaCppEngine
from serving.openai_api.embeddings import EmbeddingsRequest
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject
from serving.vllm.engine import VllmEngine
from serving.vllm.launch import VllmSettings

SLOT_SHARE = 0.85
"""Of the longest wait for a first token, what the wait for a slot may take: the prompt is read after it."""
AROUND_A_TEXT = 4
"""Tokens that a tokenizer may put around a text by itself."""
READ_SECONDS = 300.0
"""Between two pieces of an answer; a stuck engine is started again long before."""


class Replica:
    """An engine with a base or a merged model, and the adapters that come and go."""

    def __init__(
        self, name: str, section: EngineSection, artifact: Artifact, engine: Engine, wait_seconds: float
    ) -> None:
        self.name, self.section, self.artifact, self.engine = name, section, artifact, engine
        self.pool = AdapterPool(engine, patience=SLOT_SHARE * wait_seconds)
        self.queue = AdmissionQueue(section.parallel, section.queue, wait_seconds)
        self.texts = AdmissionQueue(texts_at_once(section.parallel), section.queue, wait_seconds)
        """Requests for embeddings: answers never wait behind them."""
        self.limits = limits(section.engine, section.max_rank if section.engine == "vllm" else None)
        self.endpoint: str | None = None
        """The registry's record of it."""
        self._distrusted: set[tuple[int, str]] = set()
        self._http: aiohttp.ClientSession | None = None
        self._socket: Path | None = None
        self._frame: tuple[int, int] | None = None

    async def start(self) -> None:
        """Start the engine, and learn how many tokens its chat template adds. Raises ServingError."""
        await self.engine.start()
        single = await self._prompt_tokens("user")
        three = await self._prompt_tokens("user", "assistant", "user")
        if single is not None and three is not None:
            self._frame = (single, max(0, math.ceil((three - single) / 2)))

    async def stop(self) -> None:
        """End the engine; whoever still waits for it gets an error."""
        await self.engine.stop()
        if self._http is not None:
            await self._http.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """Connections to the engine that runs now."""
        if self._http is None or self._socket != self.engine.socket:
            if self._http is not None:
                self._closing = asyncio.ensure_future(self._http.close())
            self._socket = self.engine.socket
            self._http = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._socket), limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=READ_SECONDS),
                auto_decompress=False,
            )
        return self._http

    @property
    def owed(self) -> int:
        """Answers and embeddings that the engine was asked for and has not given."""
        return self.queue.inside + self.texts.inside

    def distrust(self, artifact_id: str) -> None:
        """Answer no longer with this artifact, until the engine is started again."""
        self._distrusted.add((self.engine.restarts, artifact_id))

    def trusts(self, artifact_id: str) -> bool:
        """Whether nothing speaks against its answers with this artifact."""
        return (self.engine.restarts, artifact_id) not in self._distrusted

    @contextlib.asynccontextmanager
    async def acquire(self, artifact_id: str, path: Path) -> AsyncIterator[str]:
        """The name under which the engine serves the artifact, for as long as the block lasts.

        Raises what `AdapterPool.use` raises.
        """
        if artifact_id == self.artifact.id:
            yield self.engine.base
        else:
            async with self.pool.use(artifact_id, path) as name:
                yield name

    def prompt_bound(self, request: GatewayRequest) -> int:
        """At least as many tokens as its prompt has: no token stands for less than a byte of text."""
        room = self.section.context_length
        if self._frame is None:
            return room
        once, each = self._frame
        return min(room, request.size + once + each * request.turns)

    def token_bound(self, request: GatewayRequest) -> int:
        """At least as many tokens as the request can use."""
        room, most = self.section.context_length * request.n, self.answer_bound(request)
        return room if most is None else min(room, self.prompt_bound(request) + most * request.n)

    def answer_bound(self, request: GatewayRequest) -> int | None:
        """The most tokens that one answer may have: as asked for, else the gateway's own bound.

        None where that might not fit; then the answer ends with the engine's context.
        """
        if request.max_tokens is not None:
            return request.max_tokens
        fits = self.prompt_bound(request) + request.cap <= self.section.context_length
        return request.cap if fits else None

    def ask(
        self, request: GatewayRequest, name: str, salt: str, request_id: str
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """The engine's answer under the served `name`.

        Nothing of the client's request reaches it but the checked body.
        """
        body = request.body() | {"model": name}
        if (most := self.answer_bound(request)) is not None:
            body["max_tokens"] = most
        route = "/v1/chat/completions" if request.chat else "/v1/completions"
        return self._post(route, body, salt, request_id)

    def require_embeddings(self) -> None:
        """Raise `ApiError` where the engine has none to give."""
        if self.section.engine not in EMBEDDING_ENGINES:
            message = "the engine of this key's model gives answers and no embeddings; ask for answers only"
            raise ApiError(message, "model", code="unsupported_value")

    def embeddings_bound(self, request: EmbeddingsRequest) -> int:
        """At least as many tokens as its texts have together."""
        room = self.section.context_length
        return sum(min(room, len(text.encode()) + AROUND_A_TEXT) for text in request.texts)

    def embed(
        self, request: EmbeddingsRequest, salt: str, request_id: str
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """The engine's embeddings of the texts: states of the model that it holds, without an adapter."""
        return self._post("/v1/embeddings", request.body() | {"model": self.engine.base}, salt, request_id)

    def _post(
        self, route: str, body: JsonObject, salt: str, request_id: str
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.http.post(
            f"http://engine{route}",
            data=json.dumps(body | {"cache_salt": salt}, ensure_ascii=False).encode(),
            headers={"content-type": "application/json", "x-request-id": request_id},
        )

    async def _prompt_tokens(self, *roles: str) -> int | None:
        """Of a chat of these roles, each of which says `a`."""
        messages = [{"role": role, "content": "a"} for role in roles]
        body = {"model": self.engine.base, "max_tokens": 1, "messages": messages}
        try:
            async with self.http.post("http://engine/v1/chat/completions", json=body) as answer:
                if answer.status == 400:  # a base without a chat template, or one that refuses this chat
                    return None
                return int((await answer.json())["usage"]["prompt_tokens"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise RequestFailed(f"{self.name}: a first question got no answer: {error!r}") from None


def engine_of(
    section: EngineSection, artifact_id: str, path: Path, log: Path, recorded: Sequence[ExpectedAnswer] = ()
) -> Engine:
    """The engine that a section of the configuration describes, not started yet."""
    shared: dict[str, Any] = section.model_dump(
        include={"context_length", "parallel", "queue", "adapters", "threads", "ready_timeout"}
    )
    if section.engine == "llama.cpp":
        return LlamaCppEngine(artifact_id, path, EngineSettings(**shared), log, recorded)
    own: dict[str, Any] = section.model_dump(include={"max_rank", "dtype", "tool_call_parser"})
    settings = VllmSettings(**own, **shared)
    return VllmEngine(artifact_id, path, settings, log, recorded)
