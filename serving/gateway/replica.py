"""One engine of the gateway: what it holds, who waits for it, and how to ask it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from registry import Artifact
from serving.engine.adapter_pool import AdapterPool
from serving.engine.answer_check import ExpectedAnswer
from serving.engine.capabilities import limits
from serving.engine.protocol import Engine
from serving.errors import RequestFailed
from serving.gateway.admission import AdmissionQueue
from serving.gateway.config import EngineSection
from serving.gateway.request_policy import GatewayRequest
from serving.llama_cpp import engine as llama_cpp_engine
from serving.llama_cpp.engine import LlamaCppEngine
from serving.vllm import engine as vllm_engine
from serving.vllm.engine import VllmEngine

SLOT_SHARE = 0.85
"""Of the longest wait for a first token, what the wait for a slot may take: the prompt is read after it."""
READ_SECONDS = 300.0
"""Between two pieces of an answer; a stuck engine is started again long before."""


class Replica:
    """An engine with a base or a merged model, and the adapters that come and go."""

    def __init__(
        self, name: str, section: EngineSection, artifact: Artifact, engine: Engine, wait_seconds: float
    ) -> None:
        self.name, self.section, self.artifact, self.engine = name, section, artifact, engine
        self.pool = AdapterPool(engine, patience=SLOT_SHARE * wait_seconds)
        self.line = AdmissionQueue(section.parallel, section.queue, wait_seconds)
        self.limits = limits(section.engine, section.max_rank if section.engine == "vllm" else None)
        self.endpoint: str | None = None
        """The registry's record of it."""
        self._http: aiohttp.ClientSession | None = None
        self._socket: Path | None = None
        self._frame: tuple[int, int] | None = None

    async def start(self) -> None:
        """Start the engine, and learn how many tokens its chat template adds. Raises ServingError."""
        await self.engine.start()
        one = await self._counted([("user", "a")])
        three = await self._counted([("user", "a"), ("assistant", "a"), ("user", "a")])
        if one is not None and three is not None:
            self._frame = (one, max(0, math.ceil((three - one) / 2)))

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

    @contextlib.asynccontextmanager
    async def lend(self, artifact_id: str, path: Path) -> AsyncIterator[str]:
        """The name under which the engine serves the artifact, for as long as the block lasts.

        Raises what `AdapterPool.use` raises.
        """
        if artifact_id == self.artifact.id:
            yield self.engine.base
        else:
            async with self.pool.use(artifact_id, path) as name:
                yield name

    def prompt_bound(self, asked: GatewayRequest) -> int:
        """At least as many tokens as its prompt has: no token stands for less than a byte of text."""
        room = self.section.context_length
        if self._frame is None:
            return room
        once, each = self._frame
        return min(room, asked.size + once + each * asked.turns)

    def token_bound(self, asked: GatewayRequest) -> int:
        """At least as many tokens as the request can use."""
        room, most = self.section.context_length * asked.n, self.answer_bound(asked)
        return room if most is None else min(room, self.prompt_bound(asked) + most * asked.n)

    def answer_bound(self, asked: GatewayRequest) -> int | None:
        """The most tokens that one answer may have: as asked for, else the gateway's own bound.

        None where that might not fit; then the answer ends with the engine's context.
        """
        if asked.max_tokens is not None:
            return asked.max_tokens
        fits = self.prompt_bound(asked) + asked.cap <= self.section.context_length
        return asked.cap if fits else None

    def body(self, asked: GatewayRequest, name: str, salt: str) -> dict[str, Any]:
        """What the engine is asked."""
        most = self.answer_bound(asked)
        given = {} if most is None else {"max_tokens": most}
        return asked.body | given | {"model": name, "cache_salt": salt}

    async def _counted(self, messages: list[tuple[str, str]]) -> int | None:
        body = {
            "model": self.engine.base, "max_tokens": 1,
            "messages": [{"role": role, "content": content} for role, content in messages],
        }  # fmt: skip
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
        return LlamaCppEngine(artifact_id, path, llama_cpp_engine.Settings(**shared), log, recorded)
    settings = vllm_engine.Settings(max_rank=section.max_rank, dtype=section.dtype, **shared)
    return VllmEngine(artifact_id, path, settings, log, recorded)
