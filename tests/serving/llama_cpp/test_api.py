"""Requests to the engine over HTTP, its own door for adapters, and clients that hang up."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.llama_cpp.admin_api import Control
from serving.llama_cpp.api import Requests
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from tests.seconds import seconds
from tests.serving.canaries import Family
from tests.serving.llama_cpp.asking import BASE, asked, say


def test_a_client_that_hangs_up_ends_its_answer(batcher: Batcher) -> None:
    """Through the ASGI protocol itself: httpx's transport in memory cannot hang up."""
    body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 150}

    async def hang_up(stream: bool) -> None:
        sent = [{"type": "http.request", "body": json.dumps(body | {"stream": stream}).encode()}]
        begun = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if sent:
                return sent.pop()
            if stream:
                await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            begun.set()

        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [],
            "query_string": b"", "http_version": "1.1", "scheme": "http", "server": None, "client": None,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        with contextlib.suppress(BaseException):
            await Requests(batcher).app()(scope, receive, send)  # type: ignore[arg-type]

    for stream in (False, True):
        before = batcher.counts.cancelled
        asyncio.run(hang_up(stream))
        batcher.load("x", "x", Path("/nowhere")).exception(10)  # obeyed after the cancelling
        assert batcher.counts.cancelled == before + 1
    assert batcher.counts.answer_tokens < 290, "nobody waited for the rest"


def test_a_prompt_that_is_far_too_long_is_refused_unread(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp would need a minute for a megabyte of special tokens."""
    monkeypatch.setattr(LlamaModel, "tokenize", None)

    async def work(http: httpx.AsyncClient) -> None:
        text = "<|im_start|>" * 80_000
        for more in ({"prompt": text}, {"messages": [{"role": "user", "content": text}]}):
            route = "/v1/completions" if "prompt" in more else "/v1/chat/completions"
            refused = (await http.post(route, json={"model": BASE} | more)).json()["error"]
            assert refused["code"] == "context_length_exceeded"
            assert "has at least 8000" in refused["message"]

    asked(batcher, work)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"", 400, "not valid JSON"),
        (b"[1]", 400, "expected a JSON object"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b'{"model": "a", "model": "b"}', 400, "duplicate key"),
        (b'{"temperature": NaN}', 400, "not a JSON number"),
        (b'{"model": "\\ud800"}', 400, "not valid JSON"),
        (b" " * (1 << 20) + b" ", 413, "larger than"),
        ({"model": 7}, 400, "model: expected the name"),
        ({"model": "gpt-4"}, 404, "'gpt-4' is not served"),
        ({"model": "../x"}, 404, "not served"),
        ({"n": 10**9}, 400, "n: expected a whole number from 1 to 16"),
        ({"max_tokens": -1}, 400, "max_tokens: expected"),
        ({"max_tokens": 10**30}, 400, "max_tokens: an answer may have 1048576 tokens at most; leave it out"),
        ({"max_tokens": 255}, 400, "at most, or leave max_tokens out"),
        ({"temperature": "hot"}, 400, "temperature: expected a number"),
        ({"stop": ["a"] * 5}, 400, "stop: expected"),
        ({"chat_template": "{{ x }}"}, 400, "'chat_template' is not accepted here: templates come"),
        ({"tools": [{"type": "function"}]}, 400, "tools[0].function: expected an object with name"),
        ({"functions": [{"name": "a"}]}, 400, "'functions' is not accepted here: `tools` is its present"),
        ({"response_format": {"type": "regex"}}, 400, "response_format: expected {type: text}"),
        ({"logprobs": 0}, 400, "logprobs: expected true or false"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs: expected a whole number from 0 to 20"),
        ({"top_logprobs": 2}, 400, "top_logprobs: expected `logprobs: true` with it"),
        ({"logit_bias": {"1": 5}}, 400, "'logit_bias' is not supported by the engines here"),
        ({"reasoning_format": "deepseek"}, 400, "reasoning_format: expected auto, or none"),
        ({"messages": []}, 400, "messages: expected a list"),
        ({"messages": [{"role": "root", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text parts only"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, 400, "context length is 256 tokens"),
    ],
)  # fmt: skip
def test_bad_bodies(batcher: Batcher, body: Any, status: int, named: str) -> None:
    good = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    content = body if isinstance(body, bytes) else json.dumps(good | body).encode()

    async def work(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/chat/completions", content=content)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert named in error["message"]
        assert set(error) == {"message", "type", "param", "code"}
        assert await say(http, BASE, tokens=1) is not None

    asked(batcher, work)


def test_a_message_is_what_the_template_makes_of_its_texts_and_name(batcher: Batcher) -> None:
    requests = Requests(batcher)
    seen: list[Any] = []
    assert requests._template.reasoning is None
    rendered = requests._template._render

    def render(messages: Any, tools: Any, asking: bool) -> str:
        seen.append(messages)
        return rendered(messages, tools, asking)

    requests._template._render = render  # type: ignore[method-assign]

    async def work(http: httpx.AsyncClient) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        for content in (parts, "a\nb"):
            message = {"role": "user", "content": content, "name": "x"}
            body = {"model": BASE, "max_tokens": 1, "messages": [message]}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
        assert [list(messages) for messages in seen] == [
            [{"role": "user", "content": "a\nb", "name": "x"}]
        ] * 2
        drawn = [await say(http, BASE, tokens=8, temperature=1.5, seed=seed) for seed in (1 << 40, 1 << 40)]
        assert drawn[0] == drawn[1], "a seed may have 64 bits"
        neutral = {"seed": -1, "n": 1, "logprobs": False, "repetition_penalty": 1.0, "top_k": -1}
        assert await say(http, BASE, tokens=4, **neutral) == await say(http, BASE, tokens=4)

    asked(batcher, work, requests)


def test_a_defect_is_logged_without_the_clients_words(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("quetzalcoatl")

    monkeypatch.setattr(Requests, "_prompt", broken)

    async def work(http: httpx.AsyncClient) -> None:
        body = {"model": BASE, "messages": [{"role": "user", "content": "quetzalcoatl"}]}
        answer = await http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert "quetzalcoatl" not in answer.text

    asked(batcher, work)
    assert "KeyError at test_api.py" in caplog.text
    assert "quetzalcoatl" not in caplog.text


def test_only_the_known_routes(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        for route in (
            "/v1/load_lora_adapter",
            "/adapters",
            "/invocations",
            "/tokenize",
            "/v1/chat/completions/x",
        ):
            assert (await http.post(route, json={})).status_code == 404
        assert (await http.get("/v1/chat/completions")).status_code == 405

    asked(batcher, work)


def test_the_control_door_says_why_not(batcher: Batcher, family: Family) -> None:
    canary = family.canaries[0]

    async def run() -> None:
        transport = httpx.ASGITransport(Control(batcher).app())
        async with httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=seconds(60)
        ) as http:
            body = {"name": "a", "digest": canary.digest, "path": str(canary.path / "model.gguf")}
            said = (await http.post("/adapters", json=body)).json()
            assert said["name"] == "a"
            assert said["effect"] > 0.1
            assert (await http.get("/adapters")).json()["adapters"] == [said]
            other = await http.post("/adapters", json=body | {"digest": "b"})
            assert (other.status_code, other.json()["kind"]) == (409, "AdapterRefused")
            assert (await http.post("/adapters", json={"name": "a"})).status_code == 400
            assert (await http.delete("/adapters/a")).status_code == 200
            assert (await http.delete("/adapters/a")).status_code == 404
            assert (await http.get("/health")).json()["status"] == "ok"

    asyncio.run(run())
