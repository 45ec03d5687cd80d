"""Thoughts in vLLM's answers: found out by the chat template, and told apart in its own process."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.vllm.middleware import Dialect
from serving.vllm.thoughts import VARIABLE, Thoughts, found_in
from tests.serving.canaries import QUESTIONS, Family
from tests.serving.engine.both_engines import AnyEngine, shared_engine
from tests.serving.llama_cpp.structured.test_reasoning import OPENED
from tests.stages.backends import templates

ANSWER = "<think>\nHm.\n</think>\n\nYes."
FORM = {"begin": "<think>", "end": "</think>", "opened": False}
CHAT = "/v1/chat/completions"


def model(folder: Path, template: str | None, special: bool = False, beside: bool = False) -> Path:
    """The files of a model that tell how it writes chats; `beside`: the template in a file of its own."""
    folder.mkdir()
    settings: dict[str, Any] = {"eos_token": {"content": "<|im_end|>"}, "bos_token": None}
    if beside and template:
        (folder / "chat_template.jinja").write_text(template)
    elif template:
        settings["chat_template"] = [{"name": "default", "template": template}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokens = [{"content": "<think>", "special": special}, {"content": "<|im_end|>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    return folder


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_the_form_is_found_in_a_models_files(tmp_path: Path, special: bool, beside: bool) -> None:
    told = found_in(model(tmp_path / "m", templates.REASONING, special, beside))
    assert json.loads(told[VARIABLE]) == {"form": FORM, "special": special}


@pytest.mark.parametrize("template", [templates.CHATML, "{% broken", None])
def test_a_model_without_a_place_for_thoughts_has_none(tmp_path: Path, template: str | None) -> None:
    assert found_in(model(tmp_path / "m", template)) == {}
    assert found_in(tmp_path / "none") == {}


def app(asked: list[Any], cuts: int) -> Starlette:
    """Plays vLLM, with what stands in front of it: says `ANSWER` twice, in pieces of `cuts` letters."""

    async def answer(request: Request) -> Response:
        asked.append(given := await request.json())
        if given.get("n") == 9:
            return JSONResponse({"error": {"message": "too many"}}, 400)
        if not given.get("stream"):
            choices = [{"index": k, "message": {"role": "assistant", "content": ANSWER}} for k in (0, 1)]
            return JSONResponse({"id": "a", "choices": choices})
        texts: list[Any] = [{"role": "assistant", "content": ""}]
        texts += [{"content": ANSWER[at : at + cuts]} for at in range(0, len(ANSWER), cuts)]
        parts = [{"choices": [{"index": k, "delta": text}]} for text in texts for k in (0, 1)]
        parts += [{"choices": [{"index": k, "delta": {}, "finish_reason": "length"}]} for k in (0, 1)]
        parts.append({"choices": []})
        told = "".join(f"data: {json.dumps(part)}\n\n" for part in parts) + "data: [DONE]\n\n"

        async def events() -> Any:
            for at in range(0, len(told), 7):  # whatever the network makes of it
                yield told[at : at + 7]

        return StreamingResponse(events(), media_type="text/event-stream")

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": "m"}]})

    behind = Starlette(routes=[Route(CHAT, answer, methods=["POST"]), Route("/v1/models", models)])
    behind.add_middleware(Dialect)
    behind.add_middleware(Thoughts)
    return behind


def ask(asked: list[Any], cuts: int = 1, **more: Any) -> httpx.Response:
    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(app(asked, cuts))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as http:
            return await http.post(CHAT, json={"model": "m", "messages": [], **more})

    return asyncio.run(work())


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("cuts", [1, 4, 100])
def test_answers_are_taken_apart(monkeypatch: pytest.MonkeyPatch, special: bool, cuts: int) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"form": FORM, "special": special}))
    asked: list[Any] = []
    answer = ask(asked, cuts, reasoning_format="auto", response_format={"type": "text"})
    assert int(answer.headers["content-length"]) == len(answer.content)
    for choice in answer.json()["choices"]:
        assert choice["message"] == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    streamed = ask(asked, cuts, stream=True).text.split("\n\n")
    assert streamed[-2:] == ["data: [DONE]", ""]
    said = {k: {"content": "", "reasoning_content": ""} for k in (0, 1)}
    for event in streamed[:-2]:
        for choice in json.loads(event.removeprefix("data: "))["choices"]:
            for name in said[choice["index"]]:
                said[choice["index"]][name] += choice["delta"].get(name, "")
    assert said[0] == said[1] == {"content": "Yes.", "reasoning_content": "Hm."}
    assert [one.get("skip_special_tokens") for one in asked] == [False if special else None] * 2


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_format": "none"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
    ],
)
def test_an_answer_stays_a_text_where_that_was_asked(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"form": FORM, "special": True}))
    asked: list[Any] = []
    assert ask(asked, **more).json()["choices"][0]["message"]["content"] == ANSWER
    assert "skip_special_tokens" not in asked[0]
    assert "reasoning_format" not in asked[0]


def test_refusals_pass_and_a_thought_without_a_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"form": FORM, "special": False}))
    asked: list[Any] = []
    assert ask(asked, n=9).json() == {"error": {"message": "too many"}}
    thought = [{"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}]
    assert ask(asked, messages=thought).status_code == 200
    assert asked[-1]["messages"] == thought
    monkeypatch.delenv(VARIABLE)
    refused = ask(asked, messages=thought)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_value")
    assert "has no place for `reasoning_content`" in refused.json()["error"]["message"]
    assert ask(asked, messages=[{**thought[0], "reasoning_content": None}]).status_code == 200


@pytest.mark.vllm
def test_the_real_vllm_gives_thoughts(family: Family, tmp_path: Path) -> None:
    """By a template whose prompt begins the thought, so that all is one until its end, which never comes."""
    base = tmp_path / "base"
    shutil.copytree(family.base, base)
    (base / "chat_template.jinja").write_text(OPENED)
    thinking = Family(base, family.gguf, family.canaries)

    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        body: Any = {"model": engine.base, "messages": [{"role": "user", "content": QUESTIONS[0]}]}
        body |= {"max_tokens": 12, "temperature": 0}
        chat = client.chat.completions
        whole = (await chat.create(**body)).choices[0].message
        plain = (await chat.create(**body, extra_body={"reasoning_format": "none"})).choices[0].message
        thought = (whole.model_extra or {})["reasoning_content"]
        assert (whole.content, thought) == ("", (plain.content or "").strip())
        assert thought
        pieces = ""
        async for part in await chat.create(**body, stream=True):
            pieces += (part.choices[0].delta.model_extra or {}).get("reasoning_content", "")
            assert not part.choices[0].delta.content
        assert pieces == thought
        earlier = [{"role": "assistant", "content": "No.", "reasoning_content": "Hm."}, body["messages"][0]]
        after = await chat.create(**body | {"messages": [*body["messages"], *earlier]})
        assert after.usage is not None

    with shared_engine("vllm", thinking, tmp_path) as shared:
        shared.run(work)
