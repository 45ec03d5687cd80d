"""What other users of vLLM ran into: tests that fail on an engine with the fault, on the real engine.

47724: a request under way is answered with another adapter once that is loaded. 42125 and 30931: cached
beginnings of an adapter's earlier bytes. 34186: an adapter that is loaded and changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from serving.engine.adapter_pool import AdapterPool
from serving.errors import AdapterRefused, NotServable
from serving.vllm.engine import VllmEngine
from tests.seconds import seconds
from tests.serving.canaries import QUESTIONS, Canary, Family
from tests.serving.engine.both_engines import (
    AnyEngine,
    Shared,
    another_life,
    ask,
    official,
    shared_engine,
    tree,
)
from tests.serving.vllm.stale_slots import SWITCH

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, the engine has the fault of issue 47724."""
    return tmp_path_factory.mktemp("fault") / "on"


@pytest.fixture(scope="module")
def living(family: Family, fault: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("engine")
    options = ("--worker-extension-cls=tests.serving.vllm.stale_slots.StaleSlots",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, str(fault))
        patch.setattr("serving.vllm.launch.ALONE", Path(__file__).resolve().parents[3])  # where `tests` is
        with shared_engine("vllm", family, folder, options) as shared:
            yield shared


@pytest.fixture
def shared(living: Shared, monkeypatch: pytest.MonkeyPatch) -> Shared:
    monkeypatch.delenv("TEST_RUN")
    return living


async def raw(engine: AnyEngine, route: str, **body: Any) -> httpx.Response:
    """Ask vLLM itself, past the engine's own care."""
    assert isinstance(engine, VllmEngine)
    return await engine._control("POST", route, body)


def test_an_answer_under_way_keeps_its_adapter_when_slots_are_used_again(
    shared: Shared, family: Family, fault: Path
) -> None:
    first, second, third = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        names = [await engine.load_adapter(one.digest, one.peft) for one in (first, second)]

        async def long(name: str) -> str:
            stream = await client.completions.create(
                model=name, prompt=QUESTIONS[0], max_tokens=120, temperature=0, stream=True,
                extra_body={"ignore_eos": True},
            )  # fmt: skip
            return "".join([chunk.choices[0].text async for chunk in stream])

        async def both(disturb: bool) -> list[str]:
            answers = asyncio.gather(*map(long, names))
            while disturb and not answers.done():
                # past the engine: two slots, both in use, and a third adapter comes and goes
                await raw(engine, "/v1/load_lora_adapter", lora_name="third", lora_path=str(third.peft))
                await raw(engine, "/v1/unload_lora_adapter", lora_name="third")
            return await answers

        quiet = await both(disturb=False)
        assert quiet[0] != quiet[1]
        assert await both(disturb=True) == quiet
        fault.touch()
        try:
            assert await both(disturb=True) != quiet, "the fault would not have been noticed"
        finally:
            fault.unlink()

    shared.run(work)


def test_no_beginning_is_taken_from_an_adapters_earlier_bytes(
    shared: Shared, family: Family, tmp_path: Path
) -> None:
    first, second, _ = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        place = tmp_path / "adapter"
        shutil.copytree(first.peft, place)
        await raw(engine, "/v1/load_lora_adapter", lora_name="same", lora_path=str(place))
        assert await ask(client, "same") == first.answer
        shutil.copytree(second.peft, place, dirs_exist_ok=True)
        await raw(engine, "/v1/load_lora_adapter", lora_name="same", lora_path=str(place), load_inplace=True)
        assert await ask(client, "same") != second.answer, "vLLM itself still has it; else delete this test"
        await raw(engine, "/v1/unload_lora_adapter", lora_name="same")

        shutil.copytree(first.peft, place, dirs_exist_ok=True)
        name = await engine.load_adapter(first.digest, place)
        assert await ask(client, name) == first.answer
        shutil.copytree(second.peft, place, dirs_exist_ok=True)
        assert await ask(client, name) == first.answer, "the engine has a copy of its own"
        await engine.unload_adapter(first.digest)
        with pytest.raises(AdapterRefused, match="stood for before"):
            await engine.load_adapter(first.digest, place)
        other = await engine.load_adapter(second.digest, place)
        assert other != name
        assert await ask(client, other) == second.answer

    shared.run(work)


def test_the_base_answers_without_any_adapter(shared: Shared, family: Family) -> None:
    """vLLM's pull request 48421: on a CPU, the base got the adapter of the last slot."""
    first, second, _ = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        alone = [await ask(client, engine.base, question, logprobs=True) for question in QUESTIONS]
        names = [await engine.load_adapter(one.digest, one.peft) for one in (first, second)]
        assert [await ask(client, engine.base, question) for question in QUESTIONS] == alone
        for _ in range(4):
            models = [engine.base, *names] * 4
            said = await asyncio.gather(*(ask(client, model, QUESTIONS[1]) for model in models))
            assert said == [alone[1], first.answer, second.answer] * 4

    shared.run(work)


def without_effect(canary: Canary, out: Path, how: str) -> Path:
    """A copy of the adapter whose factors are zero, or that belong to layers which the base does not have."""
    shutil.copytree(canary.peft, out)
    file = out / "adapter_model.safetensors"
    weights = load_file(file)
    if how == "zero":
        changed = {name: one * (0 if "lora_B" in name else 1) for name, one in weights.items()}
    else:
        changed = {
            name.replace("layers.0.", "layers.70.").replace("layers.1.", "layers.71."): one
            for name, one in weights.items()
        }
    assert changed.keys() != weights.keys() or how == "zero"
    save_file(changed, file)
    return out


def test_an_adapter_without_effect_is_refused_also_under_load(
    shared: Shared, family: Family, tmp_path: Path
) -> None:
    first, second, third = family.canaries

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        name = await engine.load_adapter(first.digest, first.peft)
        done = asyncio.Event()

        async def keep_busy(salt: str) -> None:
            while not done.is_set():
                assert await ask(client, name, extra_body={"cache_salt": salt}) == first.answer

        busy = [asyncio.create_task(keep_busy(str(number))) for number in range(3)]
        for number, how in enumerate(("zero", "nowhere", "zero", "nowhere")):
            path = without_effect(third, tmp_path / f"{number}", how)
            with pytest.raises(AdapterRefused, match="no effect here"):
                await engine.load_adapter(f"{number}" * 64, path)
            assert await ask(client, await engine.load_adapter(second.digest, second.peft)) == second.answer
            await engine.unload_adapter(second.digest)
        done.set()
        await asyncio.gather(*busy)
        assert {model.id async for model in client.models.list()} == {engine.base, name}
        assert {one.name for one in engine.socket.parent.glob("adapter-*")} == {
            engine._copies[first.digest].name
        }

    shared.run(work)


def test_adapters_that_vllm_does_not_take(shared: Shared, family: Family, tmp_path: Path) -> None:
    first = family.canaries[0]
    cut, dora = tmp_path / "cut", tmp_path / "dora"
    for place in (cut, dora):
        shutil.copytree(first.peft, place)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    config = json.loads((dora / "adapter_config.json").read_text()) | {"use_dora": True}
    (dora / "adapter_config.json").write_text(json.dumps(config))

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        for number, (path, why) in enumerate(((cut, "vLLM does not load this adapter"), (dora, "DoRA"))):
            with pytest.raises(NotServable, match=why):
                await engine.load_adapter(f"{number + 7}" * 64, path)
        with pytest.raises(AdapterRefused, match="not an artifact's digest"):
            await engine.load_adapter("../" * 21 + "a", first.peft)
        assert await ask(client, await engine.load_adapter(first.digest, first.peft)) == first.answer
        assert engine.restarts == 0

    shared.run(work)


def test_a_tenants_salt_keeps_its_cache_apart(shared: Shared, family: Family) -> None:
    first = family.canaries[0]

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        name = await engine.load_adapter(first.digest, first.peft)

        async def cached(salt: str) -> int:
            answer = await client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": QUESTIONS[0]}], max_tokens=8,
                temperature=0, extra_body={"cache_salt": salt},
            )  # fmt: skip
            assert answer.usage is not None
            details = answer.usage.prompt_tokens_details
            return (details.cached_tokens or 0) if details else 0

        assert await cached("ada") == 0
        assert await cached("ada") == 32, "one block"
        assert await cached("bob") == 0, "nobody learns what others have asked from how fast an answer comes"
        await engine.unload_adapter(first.digest)
        await engine.load_adapter(first.digest, first.peft)
        assert await cached("ada") == 0, "nor is anything of an earlier load used"

    shared.run(work)


def test_only_three_routes_without_the_key(shared: Shared) -> None:
    async def work(engine: AnyEngine, _: openai.AsyncOpenAI) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(engine.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            routes = (
                (await client.get("/openapi.json")).status_code,
                (await client.get("/health")).status_code,
            )
            assert routes == (404, 404)
            for path in (
                "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/invocations", "/ping",
                "/tokenize", "/v1/responses", "/v1/messages", "/inference/v1/generate", "/tuneline/under-way",
                "/v1/chat/completions/", "//v1/chat/completions", "/v1/chat/completions/render", "/metrics",
            ):  # fmt: skip
                for method in ("GET", "POST", "DELETE", "PUT"):
                    assert (await client.request(method, path, json={})).status_code == 404, (method, path)
            nameless = await client.post("/v1/completions", json={"prompt": "Once"})
            assert nameless.status_code == 400, "vLLM would answer with the base"
            assert (await client.get("/v1/models")).json()["data"][0]["id"] == engine.base

    shared.run(work)


def test_any_of_its_processes_killed(shared: Shared, family: Family) -> None:
    first = family.canaries[0]

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        await engine.load_adapter(first.digest, first.peft)
        old, restarts = engine.pid, engine.restarts
        assert old is not None
        below = tree(engine)
        core = next(one for one in below if one.name() == "VLLM::EngineCore")
        asked = asyncio.create_task(
            client.completions.create(
                model=engine.base, prompt="Once", max_tokens=200, extra_body={"ignore_eos": True}
            )
        )
        while not (await engine.health())["active"]:
            await asyncio.sleep(0)
        core.kill()
        with pytest.raises((openai.APIError, httpx.HTTPError)):
            await asked
        await another_life(engine, old)
        assert engine.restarts == restarts + 1
        assert not psutil.wait_procs(below, timeout=seconds(5))[1], "nothing of its first life is left"
        async with official(engine) as again, AdapterPool(engine).use(first.digest, first.peft) as name:
            assert await ask(again, name) == first.answer

    shared.run(work)
