"""Responses of the engine itself: the same answers as a chat's, in the shapes of the other API."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest
from openai.types.responses import Response

from serving.llama_cpp.api import Requests
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from tests.serving.canaries import Family
from tests.serving.llama_cpp.asking import BASE, asked, load, name_of, say
from tests.serving.llama_cpp.structured.test_tool_calls import BOOK
from tests.stages.backends import templates

ROUTE = "/v1/responses"
TOOL = {"type": "function", **BOOK}


async def respond(http: httpx.AsyncClient, **more: Any) -> Response:
    """The response, whole or as its stream ends."""
    body = {"model": BASE, "input": "Who are you?", "max_output_tokens": 8, "temperature": 0, **more}
    answer = await http.post(ROUTE, json=body)
    assert answer.status_code == 200, answer.text
    if not more.get("stream"):
        return Response.model_validate(answer.json())
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    found = Response.model_validate(events[-1]["response"])
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == found.output_text
    return found


def test_it_says_what_a_chat_says(batcher: Batcher, family: Family) -> None:
    (first, *_) = family.canaries
    load(batcher, first)

    async def work(http: httpx.AsyncClient) -> None:
        for model, answer in ((BASE, await say(http, BASE)), (name_of(first), first.answer)):
            whole = await respond(http, model=model)
            streamed = await respond(http, model=model, stream=True)
            for found in (whole, streamed):
                assert (found.output_text, found.model) == (answer, model)
                assert found.usage is not None
                assert found.usage.input_tokens > 5
            assert whole.usage == streamed.usage
            assert whole.status == streamed.status == ("completed" if model != BASE else whole.status)
        hi = {"role": "user", "content": "Hi"}
        body = {"model": BASE, "messages": [{"role": "system", "content": "Obey."}, hi], "max_tokens": 8}
        chat = (await http.post("/v1/chat/completions", json=body | {"temperature": 0})).json()
        found = await respond(http, instructions="Obey.", input=[hi])
        assert found.output_text == chat["choices"][0]["message"]["content"]
        assert found.usage is not None
        assert found.usage.input_tokens == chat["usage"]["prompt_tokens"]

    asked(batcher, work)


def test_a_form_and_how_likely_it_was(batcher: Batcher) -> None:
    form = {"type": "json_schema", "name": "booking", "schema": BOOK["parameters"], "strict": True}
    more = {"text": {"format": form}, "max_output_tokens": 150, "temperature": 1, "seed": 1}
    more |= {"include": ["message.output_text.logprobs"], "top_logprobs": 1}

    async def work(http: httpx.AsyncClient) -> None:
        for stream in (False, True):
            found = await respond(http, stream=stream, **more)
            jsonschema.validate(json.loads(found.output_text), BOOK["parameters"])
            (message,) = found.output
            assert message.type == "message"
            scores = message.content[0].logprobs
            assert "".join(bytes(score.bytes).decode() for score in scores) == found.output_text
            assert {len(score.top_logprobs) for score in scores} == {1}

    asked(batcher, work)


def test_calls_and_what_came_of_them(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaModel, "metadata", lambda self, key: templates.CHATML_TOOLS)
    more = {"tools": [TOOL], "parallel_tool_calls": False, "temperature": 1, "seed": 1}

    async def work(http: httpx.AsyncClient) -> None:
        for stream in (False, True):
            found = await respond(http, tool_choice="required", stream=stream, max_output_tokens=90, **more)
            (call,) = found.output
            assert call.type == "function_call"
            assert (call.name, call.status, found.status) == ("book", "completed", "completed")
            jsonschema.validate(json.loads(call.arguments), BOOK["parameters"])
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "Booked"}
            history = [{"role": "user", "content": "Hi"}, call.to_dict(), result]
            after = await respond(http, input=history, **more)
            assert after.usage is not None
            assert found.usage is not None
            assert after.usage.input_tokens > found.usage.input_tokens

    asked(batcher, work, Requests(batcher))


def test_thoughts_are_an_item_of_their_own(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template whose prompt begins the thought: all that an untaught model says is one."""
    opened = templates.REASONING.replace("<|im_start|>assistant\\n", "<|im_start|>assistant\\n<think>\\n")
    monkeypatch.setattr(LlamaModel, "metadata", lambda self, key: opened)

    async def work(http: httpx.AsyncClient) -> None:
        for stream in (False, True):
            found = await respond(http, stream=stream)
            (thought,) = found.output
            assert (thought.type, found.output_text) == ("reasoning", "")
            assert thought.content is not None
            assert thought.content[0].text
            more = [{"role": "user", "content": "Hi"}, thought.to_dict(), {"role": "user", "content": "And?"}]
            assert (await respond(http, input=more)).output

    asked(batcher, work, Requests(batcher))


def test_refusals_name_the_fields_of_a_response(batcher: Batcher) -> None:
    bad = {"type": "json_schema", "name": "a", "schema": {"type": "array", "uniqueItems": True}}
    cases: list[tuple[dict[str, Any], int, str | None, str]] = [
        ({"model": "gpt-4"}, 404, "model", "'gpt-4' is not served here"),
        ({"input": "word " * 400}, 400, "input", "context length is 256 tokens"),
        ({"max_output_tokens": 255}, 400, "input", "leave max_output_tokens out"),
        ({"text": {"format": bad}}, 400, "text.format", "text.format: this JSON schema is refused"),
        ({"tools": [TOOL]}, 400, "tools", "chat template has no place for tools"),
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id", "nothing is kept of a response"),
        ({"store": True}, 400, "store", "responses are not kept"),
        ({"background": True}, 400, "background", "answered at once"),
    ]

    async def work(http: httpx.AsyncClient) -> None:
        for more, status, param, said in cases:
            for stream in (False, True):
                body = {"model": BASE, "input": "Hi", "max_output_tokens": 1, "stream": stream, **more}
                answer = await http.post(ROUTE, json=body)
                assert answer.status_code == status, (more, answer.text)
                error = answer.json()["error"]
                assert said in error["message"]
                assert error["param"] == param
        for path in (f"{ROUTE}/resp_1", f"{ROUTE}/resp_1/cancel"):
            assert (await http.post(path, json={})).status_code == 404
        assert (await http.get(f"{ROUTE}/resp_1")).status_code == 404

    asked(batcher, work)
    assert batcher.queued() == {BASE: (0, 0)}


def test_an_answer_that_fails_in_the_middle_ends_the_stream(batcher: Batcher) -> None:
    """Of a schema that becomes too much while it is followed."""
    costly = {"type": "json_schema", "name": "a", "schema": {"type": "string", "pattern": "^.*a.{3000}$"}}

    async def work(http: httpx.AsyncClient) -> None:
        body = {"model": BASE, "input": "Hi", "max_output_tokens": 200, "temperature": 2, "stream": True}
        for seed in range(8):
            answer = await http.post(ROUTE, json=body | {"text": {"format": costly}, "seed": seed})
            assert answer.status_code == 200, answer.text
            last = json.loads(answer.text.rstrip("\n").split("\n")[-1].removeprefix("data: "))
            if last["type"] == "response.failed":
                error = last["response"]["error"]
                assert (last["response"]["status"], error["code"]) == ("failed", "invalid_prompt")
                assert "while it was followed" in error["message"]
                return
            assert last["type"] == "response.incomplete"
        raise AssertionError("no answer came so far that the schema became too much")

    asked(batcher, work)
