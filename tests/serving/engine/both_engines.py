"""Both engines of `serving.engine.protocol`, set up alike for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from serving.engine.settings import EngineSettings
from serving.llama_cpp.engine import LlamaCppEngine
from serving.vllm import launch as vllm
from serving.vllm.engine import VllmEngine
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, RANK, Canary, Family

BASE_ID = "b" * 64
VLLM = ("--dtype=float32", "--block-size=32", f"--kv-cache-memory-bytes={1 << 26}")
"""Small blocks, so that the beginnings of short prompts are cached; no rounding that decides an answer."""
LARGE: dict[str, Any] = {"logprobs": True, "top_logprobs": 20}
"""Makes the stream of an answer of 200 tokens larger than what a socket holds: the engine cannot have written
all of it before its client reads on, however late the client is."""
KINDS = ["llama.cpp", pytest.param("vllm", marks=pytest.mark.vllm)]

AnyEngine = LlamaCppEngine | VllmEngine
Work = Callable[[AnyEngine, openai.AsyncOpenAI], Awaitable[None]]


def require_vllm() -> None:
    """Skip where nobody asked for vLLM; a variable that names a wrong environment is an error."""
    if not vllm.BESIDE.exists() and vllm.VARIABLE not in vllm.os.environ:
        pytest.skip("make vllm")
    vllm.python_with_vllm()


def engine_of(
    kind: str, family: Family, log: Path, *, options: tuple[str, ...] = (), **more: Any
) -> AnyEngine:
    """An engine that is not started yet; `more` goes into its settings."""
    common = {"context_length": 256, "parallel": 4, "queue": 64, "adapters": 2, "threads": 1} | more
    if kind == "llama.cpp":
        few = EngineSettings(ready_timeout=seconds(60), **common)
        return LlamaCppEngine(BASE_ID, family.gguf, few, log)
    settings = vllm.VllmSettings(max_rank=RANK, options=(*VLLM, *options), **common)
    return VllmEngine(BASE_ID, family.base, settings, log)


def adapter_of(kind: str, canary: Canary) -> Path:
    """In the format that the engine reads."""
    return canary.path if kind == "llama.cpp" else canary.peft


@dataclass
class Shared:
    """An engine that the tests of a module use one after another, with the event loop that it belongs to."""

    kind: str
    engine: AnyEngine
    log: Path
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def adapter(self, canary: Canary) -> Path:
        return adapter_of(self.kind, canary)

    def run(self, work: Work) -> None:
        """Do `work` with the engine, which holds no adapter at first, and OpenAI's client on it."""

        async def whole() -> None:
            for digest in list(self.engine.loaded):
                await self.engine.unload_adapter(digest)
            async with official(self.engine) as client:
                await work(self.engine, client)

        self.runner.run(whole())


@contextlib.contextmanager
def shared_engine(
    kind: str, family: Family, folder: Path, options: tuple[str, ...] = (), **more: Any
) -> Iterator[Shared]:
    """Start an engine; at the end nothing of it may be left."""
    if kind == "vllm":
        require_vllm()
    log = folder / "engine.log"
    shared = Shared(kind, engine_of(kind, family, log, options=options, **more), log)
    with shared.runner:
        shared.runner.run(shared.engine.start())
        try:
            yield shared
        finally:
            processes = tree(shared.engine)
            shared.runner.run(shared.engine.stop())
        _, left = psutil.wait_procs(processes, timeout=seconds(10))
        assert not left
        assert not shared.engine.socket.parent.exists()


def tree(engine: AnyEngine) -> list[psutil.Process]:
    """The engine's process and all below it."""
    assert engine.pid is not None
    first = psutil.Process(engine.pid)
    return [first, *first.children(recursive=True)]


@contextlib.asynccontextmanager
async def official(engine: AnyEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, on the engine's socket."""
    transport = httpx2.AsyncHTTPTransport(uds=str(engine.socket))
    async with openai.AsyncOpenAI(
        base_url="http://engine/v1", api_key="none", max_retries=0, timeout=seconds(60),
        http_client=httpx2.AsyncClient(transport=transport),
    ) as client:  # fmt: skip
        yield client


async def ask(client: openai.AsyncOpenAI, model: str, question: str = QUESTIONS[0], **more: Any) -> str:
    """The answer's text, decoded greedily."""
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=8, temperature=0, **more
    )
    return answer.choices[0].message.content or ""


async def require_models(client: openai.AsyncOpenAI, names: set[str], nobody: str) -> None:
    """What engines and gateway say alike of the models that they serve, and of one that they do not."""
    listed = {one.id: one async for one in client.models.list()}
    assert listed.keys() == names
    for name, one in listed.items():
        assert await client.models.retrieve(name) == one
        assert one.model_dump(exclude_unset=True) | {"created": 0} == {
            "id": name, "object": "model", "created": 0, "owned_by": "tuneline",
        }  # fmt: skip
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve(nobody)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert refused.value.type == "invalid_request_error"


async def another_life(engine: AnyEngine, old: int) -> None:
    """Wait until the engine that had the pid `old` has been started again."""
    async with asyncio.timeout(seconds(240)):
        while engine.pid in (old, None):
            await asyncio.sleep(0.02)
