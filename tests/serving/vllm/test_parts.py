"""The parts of the vLLM engine that need no vLLM: the door, an adapter's files, the probe, the counters."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serving.errors import AdapterRefused, EngineFailed, NotServable
from serving.openai_api.fields import NEUTRAL
from serving.vllm import adapter_files, adapter_probe, cpu_lora_patch
from serving.vllm import engine as vllm_engine
from serving.vllm import launch as vllm
from serving.vllm.engine import VllmEngine, read_counters
from serving.vllm.middleware import AdmissionMiddleware, ArtifactHeaderMiddleware, Dialect
from tests.seconds import seconds

KEY = {"x-tuneline-control": "secret"}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Behind:
    """Plays vLLM: an answer ends when told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        """Of its list of models."""
        self.end = asyncio.Event()
        self.app = Starlette()
        self.app.router.default = self.answer

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = b"" if scope["method"] == "GET" else await request.body()
        if scope["path"] != "/v1/models":
            self.asked.append(f"{scope['path']} {body.decode()}")
        if scope["path"].endswith("completions"):
            await self.end.wait()
        response: Response = PlainTextResponse("yes")
        if scope["path"] == "/v1/models":
            cards = [{"id": name, "root": "/secret", "created": 7} for name in ("ada", "bob", "team/mine")]
            response = JSONResponse({"object": "list", "data": cards}, self.status)
        await response(scope, receive, send)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_CONTROL_KEY", "secret")
    monkeypatch.setenv("TUNELINE_MOST_REQUESTS", "2")


def through(work: Callable[[httpx.AsyncClient, Behind], Awaitable[None]]) -> None:
    async def run() -> None:
        behind = Behind()
        door = AdmissionMiddleware(Dialect(behind.app))
        transport = httpx.ASGITransport(app=door)  # type: ignore[arg-type]
        async with httpx.AsyncClient(
            transport=transport, base_url="http://door", timeout=seconds(5)
        ) as client:
            await work(client, behind)

    asyncio.run(run())


def asking(client: httpx.AsyncClient, model: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post("/v1/chat/completions", json={"model": model}))


async def until(client: httpx.AsyncClient, count: int) -> None:
    async with asyncio.timeout(seconds(5)):
        while (await client.get("/tuneline/under-way", headers=KEY)).json()["under_way"] != count:
            await asyncio.sleep(0)


def test_an_unload_waits_for_answers_under_way_and_lets_nobody_in(key: None) -> None:
    async def work(client: httpx.AsyncClient, behind: Behind) -> None:
        under_way = asking(client, "ada")
        await until(client, 1)
        body = {"lora_name": "ada"}
        leaving = asyncio.create_task(client.post("/v1/unload_lora_adapter", json=body, headers=KEY))
        while (late := await asking(client, "nobody" if leaving.done() else "ada")).status_code == 200:
            raise AssertionError("let in")
        assert late.status_code == 404
        assert late.json()["error"]["code"] == "model_not_found"
        assert (await client.get("/v1/models/ada")).status_code == 404
        assert not leaving.done()
        assert len(behind.asked) == 1, "vLLM has not heard of it yet"
        behind.end.set()
        assert (await under_way).text == "yes"
        assert (await leaving).status_code == 200
        assert behind.asked[-1] == "/v1/unload_lora_adapter " + json.dumps(body, separators=(",", ":"))
        assert (await asking(client, "ada")).text == "yes", "the name may be loaded again"

    through(work)


def test_another_adapters_answers_hold_up_no_unload(key: None) -> None:
    async def work(client: httpx.AsyncClient, behind: Behind) -> None:
        other = asking(client, "bob")
        await until(client, 1)
        gone = await client.post("/v1/unload_lora_adapter", json={"lora_name": "ada"}, headers=KEY)
        assert gone.status_code == 200
        behind.end.set()
        await other

    through(work)


def test_no_more_than_fit(key: None) -> None:
    async def work(client: httpx.AsyncClient, behind: Behind) -> None:
        held = [asking(client, "ada"), asking(client, "bob")]
        await until(client, 2)
        refused = await asking(client, "bob")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        probe = asyncio.create_task(
            client.post("/v1/completions", json={"model": "ada"}, headers=KEY)  # the engine's own
        )
        await until(client, 3)
        behind.end.set()
        assert [(await one).status_code for one in (*held, probe)] == [200] * 3
        await until(client, 0)

    through(work)


def test_a_request_takes_as_many_places_as_it_asks_for_answers(key: None) -> None:
    async def work(client: httpx.AsyncClient, behind: Behind) -> None:
        for n in (3, 2**70):
            refused = await client.post(CHAT, json={"model": "ada", "n": n})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        both = asyncio.create_task(client.post(CHAT, json={"model": "ada", "n": 2}))
        await until(client, 2)
        assert (await asking(client, "bob")).status_code == 429
        behind.end.set()
        assert (await both).status_code == 200
        await until(client, 0)
        for odd in (0, -1, "2", None, True, 1.5, [2]):  # vLLM's to judge
            assert (await client.post(CHAT, json={"model": "ada", "n": odd})).status_code == 200
        await until(client, 0)

    through(work)


def test_a_request_names_its_model(key: None) -> None:
    async def work(client: httpx.AsyncClient, behind: Behind) -> None:
        for model in ("", None, 7, ["ada"], {"a": 1}):
            assert (await asking(client, model)).status_code == 400
        for body in (b"", b"{", b"[]", b'"ada"', b"[" * 100_000, b"\xff\xfe"):
            assert (await client.post("/v1/completions", content=body)).status_code == 400
        for more in ({"prompt_logprobs": 0}, {"prompt_logprobs": 5}, {"echo": True, "logprobs": 1}):
            refused = await client.post("/v1/completions", json={"model": "ada"} | more)
            assert (refused.status_code, "is not supported here" in refused.text) == (400, True)
        both = {"model": "ada", "repeat_penalty": 1.1, "repetition_penalty": 1.2}
        refused = await client.post("/v1/completions", json=both)
        assert (refused.status_code, "names of one setting" in refused.text) == (400, True)
        assert not behind.asked
        behind.end.set()

    through(work)


def test_what_says_nothing_does_not_reach_vllm(key: None) -> None:
    """It refuses `tools: []`, and ignores `repeat_penalty`."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    calls = {"tools": tools, "tool_choice": "none", "parallel_tool_calls": False}
    penalty = {"repetition_penalty": 1.1}

    async def work(client: httpx.AsyncClient, behind: Behind) -> None:
        behind.end.set()

        async def heard(route: str, **body: Any) -> dict[str, Any]:
            assert (await client.post(route, json={"model": "ada"} | body)).text == "yes"
            found: dict[str, Any] = json.loads(behind.asked[-1].split(" ", 1)[1])
            return found

        for name, values in NEUTRAL.items():
            for value in (None, *values):
                assert await heard(CHAT, **{name: value}) == {"model": "ada"}
                assert await heard(TEXT, **{name: value}) == {"model": "ada"}
        asked = len(behind.asked)
        refused = await client.post(CHAT, json={"model": "a key"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert len(behind.asked) == asked, "vLLM would log it"
        assert await heard(TEXT, max_tokens=3) == {"model": "ada", "max_tokens": 3}
        assert await heard(CHAT, repeat_penalty=1.1) == {"model": "ada"} | penalty
        assert await heard(CHAT, repeat_penalty=1.1, **penalty) == {"model": "ada"} | penalty
        said = [{"role": "developer", "content": "Obey."}, {"role": "user", "content": "Hi"}]
        assert (await heard(CHAT, messages=said))["messages"] == [{**said[0], "role": "system"}, said[1]]
        usage = {"stream_options": {"include_usage": True}}
        assert await heard(CHAT, **usage) == {"model": "ada"}
        assert await heard(CHAT, stream=True, **usage) == {"model": "ada", "stream": True} | usage
        assert await heard(CHAT, ignore_eos=True, **calls) == {"model": "ada", "ignore_eos": True} | calls

    through(work)


def test_the_key_opens_what_the_engine_needs_and_no_more(key: None) -> None:
    async def work(client: httpx.AsyncClient, behind: Behind) -> None:
        for method, path in (("POST", "/v1/load_lora_adapter"), ("GET", "/metrics"), ("GET", "/health")):
            assert (await client.request(method, path)).status_code == 404
            wrong = {"x-tuneline-control": "Secret"}
            assert (await client.request(method, path, headers=wrong)).status_code == 404
            twice = [*KEY.items(), *KEY.items()]
            assert (await client.request(method, path, headers=twice)).status_code == 404
            assert (await client.request(method, path, headers=KEY)).status_code == 200
        assert (await client.post("/adapters", headers=KEY)).status_code == 404
        assert (await client.get("/v1/models")).status_code == 200

    through(work)


def test_a_model_is_found_by_its_name(key: None) -> None:
    """vLLM has no such address, and its list tells where the files are."""

    async def work(client: httpx.AsyncClient, behind: Behind) -> None:
        listed = (await client.get("/v1/models")).json()
        assert listed == {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 0, "owned_by": "tuneline"}
                for name in ("ada", "bob", "team/mine")
            ],
        }
        for path in ("team/mine", "team%2Fmine"):
            assert (await client.get(f"/v1/models/{path}")).json() == listed["data"][2]
        for path in ("eve", "team", "ada/"):
            refused = await client.get(f"/v1/models/{path}")
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        for method, path in (("GET", "/v1/models/"), ("POST", "/v1/models/ada"), ("DELETE", "/v1/models")):
            assert (await client.request(method, path)).json()["error"]["code"] == "not_found"
        behind.status = 500
        assert (await client.get("/v1/models/ada")).status_code == 500

    through(work)


def test_an_answer_tells_which_artifact_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_ARTIFACT", "a" * 64)

    async def run() -> None:
        behind = Behind()
        behind.end.set()
        app = ArtifactHeaderMiddleware(behind.app)
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            answer = await client.post("/v1/completions", json={})
            assert (answer.text, answer.headers["x-tuneline-artifact"]) == ("yes", "a" * 64)
            assert "x-tuneline-artifact" not in (await client.get("/v1/models")).headers

    asyncio.run(run())


def adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / adapter_files.CONFIG).write_text(json.dumps({"r": 8} | config))
    (folder / adapter_files.WEIGHTS).write_bytes(b"weights")
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    return folder


def test_two_files_are_copied_and_nothing_else(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a")
    found = adapter_files.copy(source, tmp_path / "copy", 8)
    copied = {file.name for file in (tmp_path / "copy").iterdir()}
    assert copied == {adapter_files.CONFIG, adapter_files.WEIGHTS}
    assert adapter_files.copy(source, tmp_path / "again", 8) == found
    (source / adapter_files.WEIGHTS).write_bytes(b"Weights")
    assert adapter_files.copy(source, tmp_path / "other", 8) != found


def link(source: Path) -> None:
    (source / adapter_files.WEIGHTS).rename(source.parent / "elsewhere")
    (source / adapter_files.WEIGHTS).symlink_to(source.parent / "elsewhere")


def pipe(source: Path) -> None:
    (source / adapter_files.WEIGHTS).unlink()
    os.mkfifo(source / adapter_files.WEIGHTS)


def config(text: str) -> Callable[[Path], None]:
    return lambda source: (source / adapter_files.CONFIG).write_text(text) and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda source: (source / adapter_files.WEIGHTS).unlink(), r"adapter_model\.bin is a pickle"),
        (lambda source: (source / adapter_files.CONFIG).unlink(), r"adapter_config\.json: No such file"),
        (link, r"Too many levels of symbolic links; expected a regular file"),
        (pipe, r"not a regular file"),
        (config('{"r": 16}'), r"rank is 16, this engine was started for at most 8"),
        (config('{"r": 8, "rank_pattern": {"q_proj": 32}}'), r"rank is 32"),
        (config('{"r": "x"}'), r"not a LoRA's configuration"),
        (config("[" * 100_000), r"not a LoRA's configuration"),
        (config("{}"), r"not a LoRA's configuration: KeyError"),
    ],
)
def test_what_is_no_adapter(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    source = adapter(tmp_path / "a")
    spoil(source)
    with pytest.raises(NotServable, match=message):
        adapter_files.copy(source, tmp_path / "copy", 8)


def probed(answers: dict[str, list[dict[str, float]]]) -> float:
    """The effect that is found when base and adapter answer these, one after another."""

    def answer(request: httpx.Request) -> httpx.Response:
        said = answers[json.loads(request.content)["model"]].pop(0)
        return httpx.Response(200, json={"choices": [{"logprobs": {"top_logprobs": [said]}}]})

    async def run() -> float:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await adapter_probe.require_effect(client, "base", "ada", {"a": -3.0, "b": -4.0})

    return asyncio.run(run())


def test_an_effect_is_what_stands_out_of_the_noise() -> None:
    still, noisy, moved = {"a": -3.0, "b": -4.0}, {"a": -3.0, "b": -4.01}, {"a": -3.0, "b": -4.5}
    assert probed({"ada": [moved], "base": [still]}) == pytest.approx(0.1)
    assert probed({"ada": [noisy, moved], "base": [noisy, noisy]}) == pytest.approx(0.1)
    assert probed({"ada": [{"x": -1.0, "y": -4.0}], "base": [still]}) == pytest.approx(0.2)
    for said, base in ((still, still), (noisy, noisy), ({"a": -3.0, "b": -4.03}, noisy)):
        with pytest.raises(AdapterRefused, match="it has no effect here"):
            probed({"ada": [said] * 4, "base": [base] * 4})
    with pytest.raises(EngineFailed, match="expected log-probabilities"):
        probed({"ada": [{}], "base": [still]})


def faulty(inputs: Any, weights: Any, output: Any, indices: Any, scale: float = 1.0) -> None:
    """As vLLM's kernels are: an index of -1 is the last one."""
    output += scale * torch.einsum("bi,boi->bo", inputs, weights[indices])


@pytest.mark.parametrize("name", cpu_lora_patch.KERNELS)
def test_rows_of_the_base_stay_as_they_are(name: str) -> None:
    defines, uses = (SimpleNamespace(**dict.fromkeys(cpu_lora_patch.KERNELS, faulty)) for _ in range(2))
    weights, inputs = torch.randn(2, 3, 4), torch.randn(3, 4)
    indices = torch.tensor([1, -1, 0])
    before, after = torch.zeros(3, 3), torch.zeros(3, 3)
    faulty(inputs, weights, before, indices, scale=2.0)
    assert before[1].abs().sum() > 0
    cpu_lora_patch.mend(defines, uses)
    getattr(uses, name)(inputs, weights, after, indices, scale=2.0)
    assert getattr(defines, name) is getattr(uses, name)
    assert not after[1].any()
    assert torch.equal(after[[0, 2]], before[[0, 2]])


def test_counters_are_summed_over_labels() -> None:
    text = """# HELP vllm:generation_tokens_total Number
vllm:generation_tokens_total{engine="0",model_name="a"} 5.0
vllm:generation_tokens_total{engine="1",model_name="a"} 2.0
vllm:generation_tokens_created{engine="0"} 1.7e9
vllm:request_success_total{finished_reason="stop"} 3.0
vllm:request_success_total{finished_reason="length"} 1.0
"""
    assert read_counters(text) == {
        "prompt_tokens": 0, "cached_tokens": 0, "generated_tokens": 7, "answers": 4,
    }  # fmt: skip


def test_a_rank_that_vllm_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotServable, match="max_rank is 12, vLLM takes one of 1, 8, 16"):
        vllm.launch_with_adapters(tmp_path, "base", tmp_path / "api", "", vllm.VllmSettings(max_rank=12))


def test_no_token_for_long_while_somebody_waits_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"under_way": 1, "tokens": 5, "status": 200}

    async def control(method: str, route: str, **_: Any) -> httpx.Response:
        if route == "/metrics":
            return httpx.Response(200, text=f"vllm:generation_tokens_total{{}} {told['tokens']}.0\n")
        if route == "/health":
            return httpx.Response(told["status"])
        return httpx.Response(200, json={"under_way": told["under_way"]})

    async def run() -> None:
        engine = VllmEngine("b" * 64, tmp_path, vllm.VllmSettings(), tmp_path / "log")
        monkeypatch.setattr(engine, "_control", control)
        monkeypatch.setattr(vllm_engine, "STUCK_SECONDS", 1000.0)
        assert (await engine.health())["generated_tokens"] == 5
        monkeypatch.setattr(vllm_engine, "STUCK_SECONDS", -1.0)
        with pytest.raises(EngineFailed, match="1 answers are under way, and no token came"):
            await engine.health()
        monkeypatch.setattr(vllm_engine, "STUCK_SECONDS", 1000.0)
        told["tokens"] = 6
        assert (await engine.health())["active"] == 1
        told["status"] = 503
        with pytest.raises(EngineFailed, match="unhealthy"):
            await engine.health()
        await engine.stop()

    asyncio.run(run())
