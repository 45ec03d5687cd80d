"""Calls of functions: how a template writes them is found out, an answer is held to it, and read by it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from serving.llama_cpp.api import Requests
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.structured.constraints import Constraint, SchemaRefused
from serving.llama_cpp.structured.tool_calls import ID, CallFormat, call_format
from serving.openai_api.tools import Tools
from tests.serving.llama_cpp.asking import BASE, asked
from tests.stages.backends import templates

BOOK: dict[str, Any] = {
    "name": "book",
    "description": "Book a room",
    "parameters": {
        "type": "object",
        "properties": {"guests": {"type": "integer", "minimum": 1, "maximum": 9}, "city": {"enum": ["Oslo"]}},
        "required": ["guests", "city"],
        "additionalProperties": False,
    },
}
CANCEL: dict[str, Any] = {"name": "cancel", "parameters": {"type": "object", "additionalProperties": False}}
TOOLS = [{"type": "function", "function": function} for function in (BOOK, CANCEL)]
CALLED = {
    "CHATML_TOOLS": ('\n<tool_call>{"name": "', "}</tool_call>\n", True),
    "TEXT_ARGUMENTS": ('\n<tool_call>{"name": "', " ```}</tool_call>\n", False),
    "SINGLE_CALL": ('{"name": "', None, True),
    "LATE_TOOLS": ('[CALLS]{"name": "', "}" + ID, True),
}


def found(name: str) -> CallFormat | None:
    template = getattr(templates, name)
    forms: dict[bool, Any] = {
        asking: Jinja2ChatFormatter(template, "<|im_end|>", "", add_generation_prompt=asking)
        for asking in (False, True)
    }
    return call_format(
        lambda messages, tools, asking: forms[asking](messages=messages, tools=tools).prompt, ["<|im_end|>"]
    )


@pytest.mark.parametrize("name", CALLED)
def test_how_a_template_writes_calls_is_found_out_and_read_again(name: str) -> None:
    calls = found(name)
    assert calls is not None
    begin, between, decoded = CALLED[name]
    assert (calls.begin, calls.decoded) == (begin, decoded)
    assert (calls.between or "").startswith(between or "")
    assert (calls.between is None) == (between is None)

    text = f'{calls.begin}book{calls.middle}{{"guests": 2, "city": "}}"}}'
    if calls.between is not None:
        text += calls.between.replace(ID, "a23456789") + "cancel" + calls.middle + "{}"
    text += calls.end.replace(ID, "b23456789")
    said, read = calls.read("Of course." + text)
    assert said == "Of course."
    assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in read] == [
        ("book", {"guests": 2, "city": "}"}),
        ("cancel", {}),
    ][: 1 if calls.between is None else 2]
    assert len({call["id"] for call in read}) == len(read)
    if ID in calls.end:
        assert [call["id"] for call in read] == ["a23456789", "b23456789"]
    cut = calls.read(text[: len(calls.begin) + 10])
    assert cut == (text[: len(calls.begin) + 10], [])
    assert calls.read("No call.") == ("No call.", [])


@pytest.mark.parametrize("name", ["CHATML", "UNMARKED_CALLS", "REASONING"])
def test_a_template_without_tools_has_no_calls(name: str) -> None:
    assert found(name) is None


def test_text_is_certain_until_it_may_be_a_call() -> None:
    calls = found("CHATML_TOOLS")
    assert calls is not None
    texts = ("Yes", "Yes.\n", "Yes.\n<tool", "Yes <tools", 'Yes\n<tool_call>{"name":')
    assert [calls.certain(text) for text in texts] == [3, 4, 4, 10, 3]


@pytest.fixture
def requests(batcher: Batcher, monkeypatch: pytest.MonkeyPatch) -> Requests:
    """An engine whose file has a template with tools."""
    monkeypatch.setattr(LlamaModel, "metadata", lambda self, key: templates.CHATML_TOOLS)
    return Requests(batcher)


async def ask(http: httpx.AsyncClient, **more: Any) -> httpx.Response:
    body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 90, "tools": TOOLS}
    return await http.post("/v1/chat/completions", json={"temperature": 1, "seed": 1, **body, **more})


def choice(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["choices"][0]
    return found


def parts_of(stream: str) -> list[dict[str, Any]]:
    lines = [line for line in stream.split("\n\n") if line.startswith("data: {")]
    return [json.loads(line[6:])["choices"][0] for line in lines]


def test_a_call_that_has_to_be_made(batcher: Batcher, requests: Requests) -> None:
    """The model has learned nothing: what fits is the constraint's doing."""

    async def work(http: httpx.AsyncClient) -> None:
        given = choice(await ask(http, tool_choice="required", parallel_tool_calls=False))
        assert given["finish_reason"] == "tool_calls"
        assert given["message"]["content"] is None
        (call,) = given["message"]["tool_calls"]
        function = next(
            tool["function"] for tool in TOOLS if tool["function"]["name"] == call["function"]["name"]
        )
        jsonschema.validate(json.loads(call["function"]["arguments"]), function["parameters"])

        named = {"type": "function", "function": {"name": "cancel"}}
        given = choice(await ask(http, tool_choice=named))
        assert given["message"]["tool_calls"][0]["function"] == {"name": "cancel", "arguments": "{}"}

        said = [{"role": "user", "content": "Hi"}, given["message"]]
        said += [{"role": "tool", "tool_call_id": given["message"]["tool_calls"][0]["id"], "content": "Done"}]
        assert choice(await ask(http, messages=said, tool_choice="none"))["message"].keys() == {
            "role",
            "content",
        }

    asked(batcher, work, requests)


def test_a_stream_tells_calls_whole(batcher: Batcher, requests: Requests) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        whole = (await ask(http, tool_choice="required", parallel_tool_calls=False, stream=True)).text
        parts = parts_of(whole)
        calls = [call for part in parts for call in part["delta"].get("tool_calls", [])]
        assert [(call["index"], call["type"]) for call in calls] == [(0, "function")]
        assert isinstance(json.loads(calls[0]["function"]["arguments"]), dict)
        assert parts[-1]["finish_reason"] == "tool_calls"
        assert not any(part["delta"].get("content") for part in parts)

    asked(batcher, work, requests)


def test_a_text_beside_tools_comes_as_it_is_made(batcher: Batcher, requests: Requests) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        plain = choice(await ask(http, temperature=0, max_tokens=8))["message"]
        whole = (await ask(http, temperature=0, max_tokens=8, stream=True)).text
        parts = parts_of(whole)
        texts = [text for part in parts if (text := part["delta"].get("content"))]
        assert len(texts) > 1
        assert "".join(texts) == plain["content"]

    asked(batcher, work, requests)


def test_the_prompt_has_the_tools_and_what_was_called(
    batcher: Batcher, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    tokenize = LlamaModel.tokenize
    monkeypatch.setattr(
        LlamaModel, "tokenize", lambda self, text, add: prompts.append(text) or tokenize(self, text, add)
    )
    call = {"id": "a", "type": "function", "function": {"name": "book", "arguments": '{"guests":2}'}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "Booked"},
    ]

    async def work(http: httpx.AsyncClient) -> None:
        choice(await ask(http, messages=messages, max_tokens=1))
        assert '"name": "book", "arguments": {"guests": 2}}</tool_call>' in prompts[-1]
        assert "<tool_response>Booked</tool_response>" in prompts[-1]
        assert "Book a room" in prompts[-1]

    asked(batcher, work, requests)


@pytest.mark.parametrize(
    ("more", "param", "named"),
    [
        ({"tools": "x"}, "tools", "a list of up to 64 functions"),
        ({"tools": [{"type": "web_search"}]}, "tools", "{type: function"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools", "'book' is there twice"),
        ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice", "none, auto, required"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "tools to choose from"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "true or false"),
        ({"response_format": {"type": "json_object"}}, "response_format", "leave one of them out"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"not": {}}}}]},
         "tools", 'is refused: Unimplemented keys: ["not"]'),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "letters, digits"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"id": "a"}]}]},
         "messages", "{id, type: function"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages", "tool_call_id: expected a text"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(
    batcher: Batcher, requests: Requests, more: dict[str, Any], param: str, named: str
) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        refused = await ask(http, **more)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (400, param), error
        assert named in error["message"]

    asked(batcher, work, requests)


def test_a_template_without_tools_refuses_them(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        refused = await ask(http)
        assert refused.status_code == 400
        assert "no place for tools" in refused.json()["error"]["message"]

    asked(batcher, work)


def follow(model: LlamaModel, constraint: Constraint, text: str) -> bool:
    """Whether the constraint lets an answer be written so."""
    try:
        for token in model.tokenize(text, False):
            constraint.accept(token)
    except SchemaRefused:
        return False
    return True


def test_an_answer_that_may_call_is_free_until_it_calls(model: LlamaModel) -> None:
    calls = found("CHATML_TOOLS")
    assert calls is not None
    grammar = calls.grammar(Tools(tuple(TOOLS)), {})
    one = '\n<tool_call>{"name": "book", "arguments": {"guests": 2, "city": "Oslo"}}</tool_call>'
    lines = {
        "Any text, {even} <this>.": True,
        "Yes." + one: True,
        one + one: True,
        one.replace("book", "steal"): False,
        one.replace("2", "20"): False,
        one.replace("</tool_call>", "!"): False,
        one + " and more": False,
    }
    try:
        for text, fine in lines.items():
            assert follow(model, model.constraints.grammar(grammar), text) == fine, text
        alone = calls.grammar(Tools(tuple(TOOLS), parallel=False), {})
        assert not follow(model, model.constraints.grammar(alone), one + one)
    finally:
        model.close()
