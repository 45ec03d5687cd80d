"""The conformance suite of `serving.resident.Engine`: a real process, real adapters, the official client."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from serving import process
from serving.adapter_pool import AdapterPool
from serving.errors import AdapterRefused, EngineFailed, NotServable, Overloaded
from serving.llama_cpp_engine import LlamaCppEngine, Settings
from tests.reliability import adapters
from tests.serving.canaries import QUESTIONS, Canary, Family

BASE_ID = "b" * 64
TREE = Path(__file__).resolve().parents[2]
SETTINGS = Settings(context_length=256, parallel=4, queue=64, adapters=2, threads=1, ready_timeout=60)


def engine_of(family: Family, folder: Path) -> LlamaCppEngine:
    return LlamaCppEngine(BASE_ID, family.gguf, SETTINGS, folder / "engine.log")


def running(
    family: Family, folder: Path, work: Callable[[LlamaCppEngine, openai.AsyncOpenAI], Awaitable[None]]
) -> None:
    async def run() -> None:
        async with engine_of(family, folder) as engine, official(engine) as client:
            await work(engine, client)

    asyncio.run(run())


@contextlib.asynccontextmanager
async def official(engine: LlamaCppEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, on the engine's socket."""
    transport = httpx2.AsyncHTTPTransport(uds=str(engine.socket))
    async with openai.AsyncOpenAI(
        base_url="http://engine/v1", api_key="none", max_retries=0, timeout=60,
        http_client=httpx2.AsyncClient(transport=transport),
    ) as client:  # fmt: skip
        yield client


async def ask(client: openai.AsyncOpenAI, model: str, question: str = QUESTIONS[0], **more: Any) -> str:
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=8, temperature=0, **more
    )
    return answer.choices[0].message.content or ""


def test_the_official_client(family: Family, tmp_path: Path) -> None:
    first, second, _ = family.canaries

    async def work(engine: LlamaCppEngine, client: openai.AsyncOpenAI) -> None:
        name = await engine.load_adapter(first.digest, first.path)
        assert first.digest[:12] in name
        assert {model.id async for model in client.models.list()} == {engine.base, name}
        assert await ask(client, name) == first.answer

        stream = await client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": QUESTIONS[1]}], max_tokens=8, temperature=0,
            stream=True, stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == first.answer
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3

        cut = await client.completions.create(
            model=engine.base, prompt="Once", max_tokens=4, temperature=0, stream=False
        )
        assert cut.choices[0].finish_reason == "length"
        assert cut.usage is not None
        assert cut.usage.completion_tokens == 4
        stopped = await client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": QUESTIONS[0]}], max_tokens=8, temperature=0,
            stop=[first.answer.split()[1]],
        )  # fmt: skip
        assert stopped.choices[0].message.content == first.answer.split()[0] + " "

        with pytest.raises(openai.NotFoundError, match="is not served here"):
            await ask(client, f"tuneline-{second.digest[:12]}")
        with pytest.raises(openai.BadRequestError, match="chat_template"):
            await ask(client, name, extra_body={"chat_template": "{{ 1 }}"})

    running(family, tmp_path, work)


def test_nothing_but_its_sockets_listens_and_only_the_owner_may_open_them(
    family: Family, tmp_path: Path
) -> None:
    async def work(engine: LlamaCppEngine, _: openai.AsyncOpenAI) -> None:
        assert engine.socket.parent.stat().st_mode & 0o777 == 0o700
        links = psutil.Process(engine.pid).net_connections("all")
        assert not [link for link in links if link.family != socket.AF_UNIX]
        folder.append(engine.socket.parent)

    folder: list[Path] = []
    running(family, tmp_path, work)
    assert not folder[0].exists()


def test_loads_at_once_evictions_and_pins(family: Family, tmp_path: Path) -> None:
    first, second, third = family.canaries

    async def work(engine: LlamaCppEngine, client: openai.AsyncOpenAI) -> None:
        pool = AdapterPool(engine, patience=0.2)

        async def through(canary: Canary) -> None:
            async with pool.use(canary.digest, canary.path) as name:
                assert await ask(client, name) == canary.answer

        await asyncio.gather(*(through(first) for _ in range(6)))
        assert (pool.counts.loads, pool.counts.hits) == (1, 5)
        await through(second)
        await through(first)
        await through(third)
        assert set(engine.loaded) == {first.digest, third.digest}, "the least recently used has gone"
        pool.pin(first.digest)
        await through(second)
        await through(third)
        assert first.digest in engine.loaded
        async with pool.use(third.digest, third.path):
            with pytest.raises(Overloaded, match="all 2 adapter slots are in use or pinned"):
                await through(second)
        pool.unpin(first.digest)
        await through(second)
        await pool.drop(second.digest)
        assert second.digest not in engine.loaded

    running(family, tmp_path, work)


def test_a_bad_adapter_is_an_error_and_hurts_nobody(family: Family, tmp_path: Path) -> None:
    first, second, _ = family.canaries

    async def work(engine: LlamaCppEngine, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(NotServable):
            await engine.load_adapter("c" * 64, tmp_path / "nowhere")
        name = await engine.load_adapter(first.digest, first.path)
        with pytest.raises(AdapterRefused, match="stands for one artifact only"):
            await engine.load_adapter(first.digest[:12] + "0" * 52, second.path)
        assert await ask(client, name) == first.answer

    running(family, tmp_path, work)


def test_answers_under_load_changes_and_evictions(family: Family, tmp_path: Path) -> None:
    """`tests.reliability.adapters` at a reduced size."""
    given = argparse.Namespace(
        requests=150, tenants=6, adapters=3, slots=2, at_once=12, parallel=4, changes=30, seed=1
    )
    report = asyncio.run(adapters.run(given, tmp_path))
    assert (report["wrong"], report["lost"], report["restarts"]) == (0, 0, 0), report["examples"]
    assert report["pool"]["evictions"] > 0
    assert report["engine"]["cached_tokens"] > 0


def test_killed_in_the_middle_of_a_stream(family: Family, tmp_path: Path) -> None:
    first = family.canaries[0]

    async def work(engine: LlamaCppEngine, client: openai.AsyncOpenAI) -> None:
        await engine.load_adapter(first.digest, first.path)
        old = engine.pid
        assert old is not None
        stream = await client.chat.completions.create(
            model=engine.base, messages=[{"role": "user", "content": "Go on"}], max_tokens=200, stream=True,
            temperature=0,
        )  # fmt: skip

        async def read_and_kill() -> None:
            async for _ in stream:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(old, signal.SIGKILL)

        with pytest.raises((openai.APIError, httpx2.HTTPError)):
            await read_and_kill()
        async with asyncio.timeout(60):
            while engine.pid in (old, None):
                await asyncio.sleep(0.02)
        assert engine.restarts == 1
        assert engine.loaded == {}, "nothing is taken for loaded that is not"
        async with official(engine) as again:
            with pytest.raises(openai.NotFoundError):
                await ask(again, f"tuneline-{first.digest[:12]}")
            pool = AdapterPool(engine)
            async with pool.use(first.digest, first.path) as name:
                assert await ask(again, name) == first.answer
        assert "killed (SIGKILL)" in (tmp_path / "engine.log").read_text()

    running(family, tmp_path, work)


def test_a_hung_engine_is_ended_and_started_again(family: Family, tmp_path: Path) -> None:
    async def run() -> None:
        engine = engine_of(family, tmp_path)
        engine._supervisor._check_every = 0.1

        async def silence() -> dict[str, Any]:
            raise EngineFailed("no answer")

        async with engine:
            old = engine.pid
            engine._supervisor._healthy = silence
            async with asyncio.timeout(60):
                while engine.pid == old:
                    await asyncio.sleep(0.02)
                engine._supervisor._healthy = engine.health
                while engine.pid is None:
                    await asyncio.sleep(0.02)
            async with official(engine) as client:
                assert await ask(client, engine.base)

    asyncio.run(run())


OWNER = """
import asyncio, signal, sys
from pathlib import Path
from serving.llama_cpp_engine import LlamaCppEngine, Settings
async def run():
    engine = LlamaCppEngine("b" * 64, Path(sys.argv[1]), Settings(256, threads=1), Path(sys.argv[2]))
    await engine.start()
    print(engine.pid, engine.socket.parent, flush=True)
    await asyncio.Event().wait()
asyncio.run(run())
"""


def test_no_orphan_when_the_owner_is_killed(family: Family, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", OWNER, str(family.gguf), str(tmp_path / "engine.log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=TREE) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().decode().split()
        engine = psutil.Process(int(pid))
        owner.kill()
    engine.wait(timeout=20)
    shutil.rmtree(folder)  # its owner had no time to
    assert "the process that started it is gone" in (tmp_path / "engine.log").read_text()


def test_a_file_that_is_no_model_never_starts(family: Family, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(family.gguf.read_bytes()[:100_000])

    async def run(path: Path) -> None:
        await LlamaCppEngine(BASE_ID, path, SETTINGS, tmp_path / "engine.log").start()

    with pytest.raises(EngineFailed, match=r"ended before it was ready(.|\n)*cannot be served"):
        asyncio.run(run(tmp_path))
    with pytest.raises(NotServable, match="No such file"):
        asyncio.run(run(tmp_path / "nowhere"))


def test_a_slow_client_holds_up_nobody(family: Family, tmp_path: Path) -> None:
    first = family.canaries[0]

    async def work(engine: LlamaCppEngine, client: openai.AsyncOpenAI) -> None:
        name = await engine.load_adapter(first.digest, first.path)
        body = {"model": engine.base, "prompt": "Once", "max_tokens": 200, "stream": True}
        raw = json.dumps(body).encode()
        reader, writer = await asyncio.open_unix_connection(str(engine.socket), limit=64)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw
        )
        await reader.read(16)
        dawdler = socket.socket(socket.AF_UNIX)
        dawdler.connect(str(engine.socket))
        dawdler.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n{")
        assert await ask(client, name) == first.answer
        dawdler.close()
        writer.close()
        async with asyncio.timeout(30):
            while (await engine.health())["active"]:
                await asyncio.sleep(0.02)

    running(family, tmp_path, work)


def test_the_process_is_found_by_its_own_record(family: Family, tmp_path: Path) -> None:
    async def work(engine: LlamaCppEngine, _: openai.AsyncOpenAI) -> None:
        assert engine.pid is not None
        assert os.getsid(engine.pid) == engine.pid, "a session and group of its own"
        found = psutil.Process(engine.pid)
        assert process.find(engine.pid, found.create_time()) is not None

    running(family, tmp_path, work)
