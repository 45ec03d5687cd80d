"""The conformance suite of engines (`serving.engine.protocol`): real processes, real adapters, real client.

On llama.cpp always; on vLLM where `make vllm` has made its environment (`make test-vllm`).
"""

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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx2
import openai
import psutil
import pydantic
import pytest

from registry.processes import ProcessId
from serving.engine.adapter_pool import AdapterPool
from serving.engine.capabilities import EMBEDDING_ENGINES
from serving.errors import AdapterRefused, EngineFailed, NotServable, Overloaded
from serving.openai_api.fields import NEUTRAL
from tests.reliability import adapters
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, Canary, Family
from tests.serving.engine.both_engines import (
    KINDS,
    LARGE,
    AnyEngine,
    Shared,
    another_life,
    ask,
    engine_of,
    official,
    require_models,
    require_vllm,
    shared_engine,
    tree,
)  # fmt: skip
from tests.serving.openai_api import test_request

TREE = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", params=KINDS)
def living(
    request: pytest.FixtureRequest, family: Family, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    with shared_engine(request.param, family, tmp_path_factory.mktemp("engine")) as shared:
        yield shared


@pytest.fixture
def shared(living: Shared, monkeypatch: pytest.MonkeyPatch) -> Shared:
    """The module's engine. What it starts in a test outlives that test, unlike all else."""
    monkeypatch.delenv("TEST_RUN")
    return living


def test_the_official_client(shared: Shared, family: Family) -> None:
    first, second, _ = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        name = await engine.load_adapter(first.digest, shared.adapter(first))
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
        counted = {"llama.cpp": 3, "vllm": 4}[shared.kind]  # vLLM counts the token that ends it
        assert chunks[-1].usage.completion_tokens == counted

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

        with pytest.raises(openai.NotFoundError, match=r"is not served here|does not exist"):
            await ask(client, f"tuneline-{second.digest[:12]}")
        with pytest.raises(openai.BadRequestError, match=r"chat.template"):
            await ask(client, name, extra_body={"chat_template": "{{ 1 }}"})

    shared.run(work)


def test_an_answer_fits_its_schema(shared: Shared, family: Family) -> None:
    (first, *_) = family.canaries

    class Order(pydantic.BaseModel, extra="forbid"):
        city: Literal["Oslo", "Lima"]
        guests: Annotated[int, pydantic.Field(ge=1, le=9)]

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        name = await engine.load_adapter(first.digest, shared.adapter(first))
        asked: Any = {
            "messages": [{"role": "user", "content": QUESTIONS[0]}],
            "max_tokens": 100,
            "temperature": 1,
            "seed": 1,
        }
        for model in (name, engine.base):
            answer = await client.chat.completions.parse(model=model, response_format=Order, **asked)
            assert isinstance(answer.choices[0].message.parsed, Order)
        schema = {"name": "a", "schema": {"type": "array", "uniqueItems": True}}
        with pytest.raises(openai.BadRequestError, match=r"(?i)schema|uniqueItems"):
            await client.chat.completions.create(
                model=name, response_format={"type": "json_schema", "json_schema": schema}, **asked
            )
        assert await ask(client, name) == first.answer

    shared.run(work)


def test_embeddings_where_the_engine_has_them(shared: Shared, family: Family) -> None:
    (first, *_) = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        if shared.kind not in EMBEDDING_ENGINES:
            with pytest.raises(openai.NotFoundError):
                await client.embeddings.create(model=engine.base, input="Hi")
            return
        name = await engine.load_adapter(first.digest, shared.adapter(first))
        found = [
            (await client.embeddings.create(model=model, input=["Hi", "The sea is wide."])).data
            for model in (engine.base, name)
        ]
        for base, adapter in zip(*found, strict=True):
            assert base.embedding == pytest.approx(adapter.embedding, abs=1e-3), "the base's, whoever asks"
        assert found[0][0].embedding != pytest.approx(found[0][1].embedding, abs=1e-3)
        assert await ask(client, name) == first.answer

    shared.run(work)


def test_a_model_by_its_name(shared: Shared, family: Family) -> None:
    first, second, _ = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        name = await engine.load_adapter(first.digest, shared.adapter(first))
        await require_models(client, {engine.base, name}, f"tuneline-{second.digest[:12]}")

    shared.run(work)


def test_what_says_nothing_is_accepted(shared: Shared) -> None:
    """Of each engine itself, which an endpoint's clients ask without a gateway."""

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        few = asyncio.Semaphore(8)

        async def answered(start: dict[str, Any], more: dict[str, Any]) -> None:
            body = start | more | {"model": engine.base, "max_tokens": 1}
            path = "/chat/completions" if "messages" in start else "/completions"
            async with few:
                answer = await client.post(path, body=body, cast_to=httpx2.Response)
                assert answer.status_code == 200, (more, answer.text)

        asked = [
            (start, {name: value})
            for start in (test_request.CHAT, test_request.TEXT)
            for name, values in NEUTRAL.items()
            for value in (None, *values)
        ]
        asked += [(start, more) for start, more, _ in test_request.CLIENTS.values()]
        await asyncio.gather(*(answered(start, more) for start, more in asked))

    shared.run(work)


def test_only_loopback_and_its_owner_reach_it(shared: Shared) -> None:
    async def work(engine: AnyEngine, _: openai.AsyncOpenAI) -> None:
        folder = engine.socket.parent
        assert 0o700 in {one.stat().st_mode & 0o777 for one in (folder, folder.parent)}
        links = [link for one in tree(engine) for link in one.net_connections("all")]
        outside = [link for link in links if link.family != socket.AF_UNIX]
        if shared.kind == "vllm":  # its processes talk to each other
            outside = [link for link in outside if link.laddr.ip != "127.0.0.1"]
        assert not outside

    shared.run(work)


def test_loads_at_once_evictions_and_pins(shared: Shared, family: Family) -> None:
    first, second, third = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        pool = AdapterPool(engine, patience=0.2)

        async def through(canary: Canary) -> None:
            async with pool.use(canary.digest, shared.adapter(canary)) as name:
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
        async with pool.use(third.digest, shared.adapter(third)):
            with pytest.raises(Overloaded, match="all 2 adapter slots are in use or pinned"):
                await through(second)
        pool.unpin(first.digest)
        await through(second)
        await pool.drop(second.digest)
        assert second.digest not in engine.loaded

    shared.run(work)


@pytest.mark.parametrize("change", ["load_adapter", "unload_adapter"])
def test_who_goes_away_in_the_middle_of_a_change_leaves_it_whole(
    shared: Shared, family: Family, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    *two, third = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        pool, begun = AdapterPool(engine), asyncio.Event()

        async def through(canary: Canary) -> None:
            async with pool.use(canary.digest, shared.adapter(canary)) as name:
                assert await ask(client, name) == canary.answer

        for canary in two:
            await through(canary)
        original = getattr(engine, change)

        async def told(*arguments: Any) -> Any:
            doing = asyncio.ensure_future(original(*arguments))
            await asyncio.wait({doing}, timeout=0.002)
            begun.set()
            return await doing

        with monkeypatch.context() as patched:
            patched.setattr(engine, change, told)
            gone = asyncio.create_task(through(third))
            await begun.wait()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        await through(two[0])  # the engine takes one command after another, so it has done those before
        served = {model.id async for model in client.models.list()} - {engine.base}
        assert served == set(engine.loaded.values())
        for canary in family.canaries:
            await through(canary)

    shared.run(work)


def test_busy_adapters_make_room_for_another(shared: Shared, family: Family) -> None:
    *busy, third = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        pool, done = AdapterPool(engine), asyncio.Event()

        async def through(canary: Canary) -> None:
            async with pool.use(canary.digest, shared.adapter(canary)) as name:
                assert await ask(client, name) == canary.answer

        async def again_and_again(canary: Canary) -> None:
            while not done.is_set():
                await through(canary)

        crowd = [asyncio.create_task(again_and_again(one)) for one in busy for _ in range(3)]
        await through(third)
        done.set()
        await asyncio.gather(*crowd)
        assert pool.counts.refusals == 0

    shared.run(work)


def test_a_bad_adapter_is_an_error_and_hurts_nobody(shared: Shared, family: Family, tmp_path: Path) -> None:
    first, second, _ = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(NotServable):
            await engine.load_adapter("c" * 64, tmp_path / "nowhere")
        name = await engine.load_adapter(first.digest, shared.adapter(first))
        with pytest.raises(AdapterRefused, match="stands for one artifact only"):
            await engine.load_adapter(first.digest[:12] + "0" * 52, shared.adapter(second))
        assert await ask(client, name) == first.answer

    shared.run(work)


def test_answers_under_load_changes_and_evictions(shared: Shared, family: Family) -> None:
    """`tests.reliability.adapters` at a reduced size."""
    given = argparse.Namespace(
        engine=shared.kind, requests=150, tenants=6, adapters=3, slots=2, at_once=12, parallel=4,
        changes=30, seed=1,
    )  # fmt: skip
    report: dict[str, Any] = {}

    async def work(engine: AnyEngine, _: openai.AsyncOpenAI) -> None:
        before = engine.restarts
        report.update(await adapters.trial(given, engine, family))
        assert engine.restarts == before

    shared.run(work)
    assert (report["wrong"], report["lost"]) == (0, 0), report["examples"]
    assert report["pool"]["evictions"] > 0
    assert report["engine"]["cached_tokens"] > 0


def test_killed_in_the_middle_of_a_stream(shared: Shared, family: Family) -> None:
    first = family.canaries[0]

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        await engine.load_adapter(first.digest, shared.adapter(first))
        old, restarts = engine.pid, engine.restarts
        assert old is not None
        below = tree(engine)
        stream = await client.chat.completions.create(
            model=engine.base, messages=[{"role": "user", "content": "Go on"}], max_tokens=200, stream=True,
            temperature=0, **LARGE,
        )  # fmt: skip

        async def read_and_kill() -> None:
            async for _ in stream:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(old, signal.SIGKILL)

        with pytest.raises((openai.APIError, httpx2.HTTPError)):
            await read_and_kill()
        await another_life(engine, old)
        assert engine.restarts == restarts + 1
        assert not psutil.wait_procs(below, timeout=seconds(10))[1], "nothing of its first life is left"
        assert engine.loaded == {}, "nothing is taken for loaded that is not"
        async with official(engine) as again:
            with pytest.raises(openai.NotFoundError):
                await ask(again, f"tuneline-{first.digest[:12]}")
            pool = AdapterPool(engine)
            async with pool.use(first.digest, shared.adapter(first)) as name:
                assert await ask(again, name) == first.answer
        assert "killed (SIGKILL)" in shared.log.read_text()

    shared.run(work)


def test_a_hung_engine_is_ended_and_started_again(family: Family, tmp_path: Path) -> None:
    async def run() -> None:
        engine = engine_of("llama.cpp", family, tmp_path / "engine.log")
        engine._supervisor._check_every = 0.1

        async def silence() -> dict[str, Any]:
            raise EngineFailed("no answer")

        async with engine:
            old = engine.pid
            engine._supervisor._healthy = silence
            assert old is not None
            async with asyncio.timeout(seconds(60)):
                while engine.pid == old:
                    await asyncio.sleep(0.02)
            engine._supervisor._healthy = engine.health
            await another_life(engine, old)
            async with official(engine) as client:
                assert await ask(client, engine.base)

    asyncio.run(run())


OWNER = """
import asyncio, sys
from pathlib import Path
from tests.serving.canaries import open_family
from tests.serving.engine.both_engines import engine_of
async def run():
    kind, family, log = sys.argv[1:]
    engine = engine_of(kind, open_family(Path(family)), Path(log))
    await engine.start()
    print(engine.pid, engine.socket.parent, flush=True)
    await asyncio.Event().wait()
asyncio.run(run())
"""


@pytest.mark.parametrize("kind", KINDS)
def test_no_orphan_when_the_owner_is_killed(kind: str, family: Family, tmp_path: Path) -> None:
    if kind == "vllm":
        require_vllm()
    argv = [sys.executable, "-c", OWNER, kind, str(family.base.parent), str(tmp_path / "engine.log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=TREE) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().decode().split()
        engine = psutil.Process(int(pid))
        all_of_it = [engine, *engine.children(recursive=True)]
        owner.kill()
    _, left = psutil.wait_procs(all_of_it, timeout=seconds(20))
    assert not left
    shutil.rmtree(folder, ignore_errors=True)  # its owner had no time to; another engine's start may have
    assert "the process that started it is gone" in (tmp_path / "engine.log").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_model_never_starts(kind: str, family: Family, tmp_path: Path) -> None:
    if kind == "vllm":
        require_vllm()
        shutil.copytree(family.base, tmp_path, dirs_exist_ok=True)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100_000])
    else:
        (tmp_path / "model.gguf").write_bytes(family.gguf.read_bytes()[:100_000])

    async def run(path: Path) -> None:
        await engine_of(kind, replace(family, base=path, gguf=path), tmp_path / "engine.log").start()

    with pytest.raises(EngineFailed, match=r"ended before it was ready(.|\n)*engine\.log"):
        asyncio.run(run(tmp_path))
    assert not list(tmp_path.glob("tuneline-*"))
    with pytest.raises(NotServable, match=r"No such file|no config\.json"):
        asyncio.run(run(tmp_path / "nowhere"))


def test_a_slow_client_holds_up_nobody(shared: Shared, family: Family) -> None:
    first = family.canaries[0]

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        name = await engine.load_adapter(first.digest, shared.adapter(first))
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
        async with asyncio.timeout(seconds(30)):
            while (await engine.health())["active"]:
                await asyncio.sleep(0.02)

    shared.run(work)


def test_the_process_is_found_by_its_own_record(shared: Shared, family: Family) -> None:
    async def work(engine: AnyEngine, _: openai.AsyncOpenAI) -> None:
        assert engine.pid is not None
        assert os.getsid(engine.pid) == engine.pid, "a session and group of its own"
        found = psutil.Process(engine.pid)
        assert ProcessId(engine.pid, found.create_time()).find() is not None

    shared.run(work)
