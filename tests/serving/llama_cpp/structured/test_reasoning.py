"""Thoughts before answers: how a template writes them is found out, and an answer is taken apart."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from serving.engine import answer_check
from serving.llama_cpp.api import Requests
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.structured.tool_calls import CallFormat
from serving.openai_api.parts import Deltas, Parts
from serving.openai_api.reasoning import ReasoningFormat, reasoning_format
from stages.formats.converter_source import home
from tests.serving.llama_cpp.asking import BASE, asked
from tests.stages.backends import templates

OPENED = templates.REASONING.replace("<|im_start|>assistant\\n", "<|im_start|>assistant\\n<think>\\n")
"""The prompt begins the thought."""
THINK = ReasoningFormat("<think>", "</think>", opened=False)
BEGUN = ReasoningFormat("<think>", "</think>", opened=True)


def found(template: str) -> ReasoningFormat | None:
    forms: dict[bool, Any] = {
        asking: Jinja2ChatFormatter(template, "<|im_end|>", "", add_generation_prompt=asking)
        for asking in (False, True)
    }
    return reasoning_format(
        lambda messages, tools, asking: forms[asking](messages=messages, tools=tools).prompt, ["<|im_end|>"]
    )


def test_how_a_template_writes_a_thought_is_found_out() -> None:
    assert found(templates.REASONING) == THINK
    assert found(OPENED) == BEGUN
    plain = templates.REASONING.replace("<think>", "[THINK]").replace("</think>", "[/THINK]")
    assert found(plain) == ReasoningFormat("[THINK]", "[/THINK]", opened=False)


REAL = {
    "Qwen-Qwen3-0.6B": THINK,
    "GLM-4.6": THINK,
    "openbmb-MiniCPM5-1B": THINK,
    "Bielik-11B-v3.0-Instruct": THINK,
    "ByteDance-Seed-OSS": ReasoningFormat("<seed:think>", "</seed:think>", opened=False),
    "poolside-Laguna-XS.2": THINK,  # its prompt ends the thought
    "Qwen3.5-4B": BEGUN,
    "GLM-4.7-Flash": BEGUN,
    "MiniMax-M2": BEGUN,
    "StepFun3.5-Flash": BEGUN,
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": BEGUN,
    "Cohere2MoE": ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|><|START_TEXT|>", opened=True),
    "Qwen-Qwen2.5-7B-Instruct": None,
    "meta-llama-Llama-3.1-8B-Instruct": None,
    "google-gemma-2-2b-it": None,
    "HuggingFaceTB-SmolLM3-3B": None,  # has no place for an earlier thought
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": None,  # likewise
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_thoughts_of_real_models(name: str) -> None:
    """Templates that llama.cpp's own tests have, of the source that the converter comes from."""
    template = home() / "models" / "templates" / f"{name}.jinja"
    assert found(template.read_text("utf-8")) == REAL[name]


@pytest.mark.parametrize("name", ["CHATML", "CHATML_TOOLS", "UNMARKED_CALLS", "SINGLE_CALL"])
def test_a_template_without_a_place_for_thoughts_has_none(name: str) -> None:
    assert found(getattr(templates, name)) is None


@pytest.mark.parametrize(
    ("form", "text", "thought", "content"),
    [
        (THINK, "<think>\nSo be it.\n</think>\n\nYes.", "So be it.", "Yes."),
        (THINK, "<think>\n\n</think>\n\nYes.", "", "Yes."),
        (THINK, "Yes, <think> is a tag.", "", "Yes, <think> is a tag."),
        (THINK, "<think>\nWithout an end </thi", "Without an end </thi", ""),
        (THINK, "<thin air>", "", "<thin air>"),
        (THINK, " spaced", "", " spaced"),
        (BEGUN, "So be it.\n</think>\n\nYes. </think>", "So be it.", "Yes. </think>"),
        (BEGUN, "<think>Again.</think>Yes.", "Again.", "Yes."),
        (BEGUN, "Without an end", "Without an end", ""),
    ],
)  # fmt: skip
def test_an_answer_is_taken_apart_alike_whole_and_as_it_comes(
    form: ReasoningFormat, text: str, thought: str, content: str
) -> None:
    assert form.split(text) == (thought, content)
    for size in (1, 2, 3, 100):
        deltas, told = Deltas(Parts(reasoning=form)), []
        for at in range(0, len(text), size):
            told += deltas.add(text[at : at + size])
        told += deltas.end()[0]
        assert "".join(delta.get("reasoning_content", "") for delta in told) == thought, size
        assert "".join(delta.get("content", "") for delta in told) == content, size
        kinds = [next(iter(delta)) for delta in told]
        assert kinds == sorted(kinds, reverse=True), "the thought comes first"


def test_a_thought_before_a_call() -> None:
    calls = CallFormat('\n<tool_call>{"name": "', '", "arguments": ', None, "}</tool_call>", True)
    text = (
        '<think>\nBook it.\n</think>\n\nOne moment.\n<tool_call>{"name": "book", "arguments": {}}</tool_call>'
    )
    thought, content, read = Parts(calls, THINK).whole(text)
    assert (thought, content) == ("Book it.", "One moment.")
    assert read[0]["function"] == {"name": "book", "arguments": "{}"}
    deltas, told = Deltas(Parts(calls, THINK)), []
    for letter in text:
        told += deltas.add(letter)
    held, called = deltas.end()
    assert called
    assert "".join(delta.get("content", "") for delta in told) == "One moment."
    assert held[0]["tool_calls"][0]["function"] == read[0]["function"]


def engine(batcher: Batcher, monkeypatch: pytest.MonkeyPatch, template: str, text: str) -> Requests:
    """An engine whose file has this template, and that says this text, a letter with each token."""
    monkeypatch.setattr(LlamaModel, "metadata", lambda self, key: template)
    letters = iter(text)
    monkeypatch.setattr(LlamaModel, "piece", lambda self, token: next(letters, "").encode())
    monkeypatch.setattr(LlamaModel, "ends", lambda self, token: False)
    return Requests(batcher)


async def ask(http: httpx.AsyncClient, **more: Any) -> httpx.Response:
    body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40}
    return await http.post("/v1/chat/completions", json={**body, **more})


ANSWER = "<think>\nHm.\n</think>\n\nYes."


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, {"content": "Yes.", "reasoning_content": "Hm."}),
        ({"reasoning_format": "none"}, {"content": ANSWER}),
    ],
)
def test_a_thought_has_a_field_of_its_own(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], message: dict[str, str]
) -> None:
    requests = engine(batcher, monkeypatch, templates.REASONING, ANSWER)

    async def work(http: httpx.AsyncClient) -> None:
        answer = await ask(http, **more)
        assert answer.json()["choices"][0]["message"] == {"role": "assistant", **message}

    asked(batcher, work, requests)


def test_a_thought_is_streamed_in_a_field_of_its_own(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = engine(batcher, monkeypatch, templates.REASONING, ANSWER)

    async def work(http: httpx.AsyncClient) -> None:
        lines = (await ask(http, stream=True)).text.split("\n\n")
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
        assert "".join(delta.get("content", "") for delta in deltas) == "Yes."

    asked(batcher, work, requests)


def test_an_earlier_thought_goes_to_a_template_that_has_a_place_for_it(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [{"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."},
            {"role": "user", "content": "Sure?"}]  # fmt: skip

    async def work(http: httpx.AsyncClient) -> None:
        refused = (await ask(http, messages=said)).json()["error"]
        assert "has no place for `reasoning_content`; leave it out" in refused["message"]

    asked(batcher, work)
    requests = engine(batcher, monkeypatch, templates.REASONING, "Yes.")

    async def again(http: httpx.AsyncClient) -> None:
        answer = await ask(http, messages=said)
        assert answer.status_code == 200, answer.text

    asked(batcher, again, requests)


def test_an_answer_within_a_schema_holds_no_thought(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaModel, "metadata", lambda self, key: OPENED)

    async def work(http: httpx.AsyncClient) -> None:
        schema = {"name": "a", "schema": {"const": "yes"}}
        answer = await ask(http, response_format={"type": "json_schema", "json_schema": schema})
        assert answer.json()["choices"][0]["message"] == {"role": "assistant", "content": '"yes"'}

    asked(batcher, work, Requests(batcher))


def test_an_answer_on_record_is_compared_with_its_thought(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations record what the model wrote; a content without its thought would be another answer."""
    requests = engine(batcher, monkeypatch, templates.REASONING, ANSWER[: answer_check.TOKENS])

    async def work(http: httpx.AsyncClient) -> None:
        @contextlib.asynccontextmanager
        async def there(_: Path) -> AsyncIterator[httpx.AsyncClient]:
            yield http

        monkeypatch.setattr(answer_check, "over_socket", there)
        question = answer_check.ExpectedAnswer(({"role": "user", "content": "Hi"},), ANSWER)
        await answer_check.require_recorded(Path(), BASE, [question])

    asked(batcher, work, requests)
