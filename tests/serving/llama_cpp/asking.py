"""Adapters loaded and questions asked in this process, as the gateway would over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

from serving.llama_cpp.api import Requests
from serving.llama_cpp.loaded_adapters import LoadedAdapter
from serving.llama_cpp.scheduler import Batcher
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, Canary

BASE = "tuneline-base"


def name_of(canary: Canary) -> str:
    return f"tuneline-{canary.digest[:12]}"


def load(batcher: Batcher, canary: Canary) -> LoadedAdapter:
    return batcher.load(name_of(canary), canary.digest, canary.path / "model.gguf").result(seconds(30))


@contextlib.asynccontextmanager
async def client(batcher: Batcher, requests: Requests | None = None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport((requests or Requests(batcher)).app())
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=seconds(60)) as made:
        yield made


async def say(
    http: httpx.AsyncClient, model: str, question: str = QUESTIONS[0], tokens: int = 8, **more: Any
) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": tokens}
    answer = await http.post("/v1/chat/completions", json={"temperature": 0, **body, **more})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def asked(
    batcher: Batcher, work: Callable[[httpx.AsyncClient], Awaitable[Any]], requests: Requests | None = None
) -> Any:
    async def run() -> Any:
        async with client(batcher, requests) as http:
            return await work(http)

    return asyncio.run(run())
