"""The schema that the gateway and both engines share: what says nothing, and what means something."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.gateway.config import Bounds
from serving.gateway.request_policy import limits_of
from serving.gateway.request_policy import read as read_at_gateway
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import NEUTRAL
from serving.openai_api.request import LACKING, CompletionRequest, RequestLimits, read

HI = {"role": "user", "content": "Hi"}
CHAT = {"model": "team/mine", "messages": [HI]}
TEXT = {"model": "team/mine", "prompt": "Once"}
LLAMA, VLLM = (RequestLimits(max_tokens=1024, lacking=LACKING[engine]) for engine in ("llama.cpp", "vllm"))


def chat(limits: RequestLimits = LLAMA, **more: Any) -> CompletionRequest:
    return read(json.dumps(CHAT | more).encode(), True, limits)


def text(limits: RequestLimits = LLAMA, **more: Any) -> CompletionRequest:
    return read(json.dumps(TEXT | more).encode(), False, limits)


def refusal(given: dict[str, Any], limits: RequestLimits = LLAMA) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(json.dumps(given).encode(), "messages" in given, limits)
    return caught.value


def messages(*given: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = chat(messages=list(given)).body()["messages"]
    return found


NOTHING = [(name, value) for name, values in NEUTRAL.items() for value in (None, *values)]


@pytest.mark.parametrize(("name", "value"), NOTHING, ids=[f"{name}={value!r}" for name, value in NOTHING])
def test_what_says_nothing_is_accepted_and_reaches_no_engine(name: str, value: Any) -> None:
    assert chat(**{name: value}).body() == {"messages": [HI]}
    assert text(**{name: value}).body() == {"prompt": "Once"}


def test_a_number_is_no_truth_value() -> None:
    for given in (
        {"n": True},
        {"logprobs": 0},
        {"stream": 0},
        {"top_k": False},
        {"repetition_penalty": True},
    ):
        assert refusal(CHAT | given, VLLM).param == next(iter(given))


CLIENTS = {
    "LangChain's OpenAI": (TEXT, {
        "prompt": ["Once"], "frequency_penalty": 0, "logit_bias": {}, "logprobs": None, "max_tokens": 256,
        "n": 1, "presence_penalty": 0, "seed": None, "temperature": 0.7, "top_p": 1, "best_of": 1,
    }, {"prompt": "Once", "max_tokens": 256, "temperature": 0.7}),
    "LangChain's ChatOpenAI": (CHAT, {
        "messages": [HI, {"role": "assistant", "content": None, "tool_calls": []}, HI], "stream": True,
        "stream_options": {"include_usage": True}, "parallel_tool_calls": True, "max_completion_tokens": 9,
    }, {"messages": [HI, {"role": "assistant", "content": ""}, HI], "stream": True, "max_tokens": 9,
        "stream_options": {"include_usage": True}}),
    "AutoGen": (CHAT, {
        "messages": [{"role": "system", "content": "Obey."}, {**HI, "name": "user_proxy"}], "tools": [],
        "tool_choice": "auto", "n": 1,
    }, {"messages": [{"role": "system", "content": "Obey."}, {**HI, "name": "user_proxy"}]}),
    "LiteLLM": (CHAT, {
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}},
            ]},
            {"role": "assistant", "content": "Yes.", "tool_calls": None, "function_call": None,
             "annotations": [], "provider_specific_fields": {"refusal": None}},
        ], "metadata": {"a": "b"}, "user": "u",
    }, {"messages": [HI, {"role": "assistant", "content": "Yes."}]}),
    "vLLM's benchmark": (TEXT, {
        "temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 16, "logprobs": None, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": False}, "ignore_eos": False,
        "skip_special_tokens": True, "min_tokens": 0, "seed": -1,
    }, {"prompt": "Once", "temperature": 0.0, "max_tokens": 16, "stream": True,
        "stream_options": {"include_usage": True}}),
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("limits", [LLAMA, VLLM], ids=["llama.cpp", "vllm"])
def test_what_clients_send_by_themselves(client: str, limits: RequestLimits) -> None:
    start, more, expected = CLIENTS[client]
    assert read(json.dumps(start | more).encode(), start is CHAT, limits).body() == expected
    asked = read_at_gateway(json.dumps(start | more).encode(), start is CHAT, limits)
    assert asked.body() == expected


def test_messages_are_roles_texts_and_names() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages({"role": "user", "content": parts}) == [{"role": "user", "content": "a\nb"}]
    assert messages({"role": "developer", "content": "x"}) == [{"role": "system", "content": "x"}]
    assert messages({**HI, "name": "alice"}) == [{**HI, "name": "alice"}]
    assert messages({**HI, "name": ""}, {**HI, "name": None}) == [HI, HI]


def test_a_size_is_that_of_what_the_engine_is_asked() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "é"}]
    given = CHAT | {"messages": [{"role": "user", "content": parts, "name": "bo"}]}
    assert read_at_gateway(json.dumps(given).encode(), True, LLAMA).size == len("a\né".encode()) + 2


def test_two_names_of_one_setting() -> None:
    for name in ("repeat_penalty", "repetition_penalty"):
        assert chat(**{name: 1.5}).body()["repetition_penalty"] == 1.5
    assert chat(repeat_penalty=1.5, repetition_penalty=1.5).body()["repetition_penalty"] == 1.5
    assert "leave one of them out" in str(refusal(CHAT | {"repeat_penalty": 1.5, "repetition_penalty": 1.2}))


def test_what_one_engine_does_not_do_is_refused_before_its_values_are_judged() -> None:
    """Else a client would be told to lower a number that is refused at any height."""
    error = refusal(CHAT | {"logit_bias": {"x": 1}})
    assert (error.param, error.code) == ("logit_bias", "unsupported_parameter")
    assert chat(VLLM, logprobs=True, top_logprobs=2, logit_bias={"5": 1}).body() == {
        "messages": [HI], "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1},
    }  # fmt: skip
    both = limits_of(Bounds(n=4), LACKING["llama.cpp"] & LACKING["vllm"])
    assert chat(both, n=4).body()["n"] == 4
    assert "a request gets one answer" in str(
        refusal(CHAT | {"n": 2}, limits_of(Bounds(n=1), LACKING["vllm"]))
    )


@pytest.mark.parametrize("limits", [LLAMA, VLLM], ids=["llama.cpp", "vllm"])
def test_both_engines_get_the_same_form(limits: RequestLimits) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    given = {"name": "a", "description": "of what", "strict": True, "schema": schema}
    body = chat(limits, response_format={"type": "json_schema", "json_schema": given}).body()
    assert body["response_format"]["json_schema"] == {"name": "a", "schema": schema}
    assert chat(limits, response_format={"type": "json_object"}).body()["response_format"] == {
        "type": "json_object"
    }


def test_calls_and_their_results_are_messages() -> None:
    call = {"id": "a1", "type": "function", "function": {"name": "book", "arguments": '{"guests": 2}'}}
    sent = [
        HI,
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "a1", "content": [{"type": "text", "text": "Booked"}]},
    ]
    assert messages(*sent) == [
        HI,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Booked", "tool_call_id": "a1"},
    ]
    for arguments in ("[1]", "{", {"guests": 2}, None):
        wrong = {**call, "function": {"name": "book", "arguments": arguments}}
        error = refusal(CHAT | {"messages": [HI, {"role": "assistant", "tool_calls": [wrong]}]})
        assert "arguments: expected the JSON text of an object" in str(error)


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([[], ["a"]], id="without a call"),
        pytest.param([["a"], ["b"]], id="of another call"),
        pytest.param([["a", "b"], ["b", "b"]], id="a second of one call"),
        pytest.param([["a"], None, ["a"]], id="after the user spoke"),
    ],
)
def test_a_result_answers_a_call_before_it(ids: list[list[str] | None]) -> None:
    function = {"name": "book", "arguments": "{}"}
    calls = [{"id": id_, "type": "function", "function": function} for id_ in ids[0] or ()]
    sent: list[dict[str, Any]] = [HI, {"role": "assistant", "content": "", "tool_calls": calls}]
    sent += [HI] * (None in ids)
    sent += [{"role": "tool", "tool_call_id": id_, "content": "Booked"} for id_ in ids[-1] or ()]
    error = refusal(CHAT | {"messages": sent})
    assert f'the result with tool_call_id "{(ids[-1] or [])[-1]}" answers no call' in str(error)
    assert error.param == "messages"


def test_stream_options_belong_to_a_stream() -> None:
    error = refusal(CHAT | {"stream_options": {"include_usage": True}})
    assert str(error) == "stream_options: expected `stream: true` with it; or leave it out"
    assert not chat(LLAMA, stream_options={"include_usage": False}).wants_usage


def test_tools_reach_the_engine_and_are_paid_for() -> None:
    tools = [{"type": "function", "function": {"name": "book", "description": "Book a room"}}]
    given = CHAT | {"tools": tools, "tool_choice": "required"}
    asked = read_at_gateway(json.dumps(given).encode(), True, LLAMA)
    sent = asked.body()
    assert (sent["tools"], sent["tool_choice"], sent["parallel_tool_calls"]) == (tools, "required", True)
    assert read(json.dumps(sent | {"model": "a"}).encode(), True, LLAMA).tools == asked.tools
    assert asked.size == len("Hi") + len(json.dumps(tools[0]))
    assert asked.calls
    assert not read_at_gateway(json.dumps(given | {"tool_choice": "none"}).encode(), True, LLAMA).tools


MEANT = [
    *({name: value} for name, value in {
        "tools": [{"type": "function"}], "functions": [{}], "priority": 1, "chat_template": "x", "echo": "x",
        "guided_json": {}, "n": 2, "max_tokens": 4096, "max_completion_tokens": 0, "logprobs": True,
        "seed": 1 << 63,
        "top_logprobs": 3, "logit_bias": {"1": 1}, "response_format": {"type": "json_schema"},
        "stop": ["a"] * 5,
        "temperature": 3, "repetition_penalty": 5, "stream_options": {"x": True},
        "add_generation_prompt": False,
        "skip_special_tokens": False, "min_tokens": 5, "top_k": -2, "verbosity": "high", "cache_salt": "x",
    }.items()),
]  # fmt: skip


@pytest.mark.parametrize("given", MEANT, ids=[next(iter(one)) for one in MEANT])
@pytest.mark.parametrize("limits", [LLAMA, VLLM], ids=["llama.cpp", "vllm"])
def test_who_does_as_a_refusal_says_is_answered(given: dict[str, Any], limits: RequestLimits) -> None:
    (name,) = given
    if name == "logprobs" or (limits is VLLM and name == "logit_bias"):
        assert chat(limits, **given).body()[name] == given[name], "it means something, and is not lost"
        return
    with pytest.raises(ApiError, match=name) as caught:
        read_at_gateway(json.dumps(CHAT | given).encode(), True, limits)
    assert caught.value.param == name
    for mended in (CHAT, CHAT | {name: None}):
        assert read_at_gateway(json.dumps(mended).encode(), True, limits).body() == {"messages": [HI]}


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
            "tool_calls: no engine here calls",
        ),
        ({"role": "tool", "content": "4", "tool_call_id": "a"}, "tool_call_id: no engine here calls"),
        ({"role": "tool", "content": "4"}, "role: no engine here calls"),
        ({"role": "user", "content": None}, "content: expected a text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "text parts only"),
        ({"role": "user", "content": "a", "weight": 1}, "weight is not accepted here; leave it out"),
        ({"role": "user", "content": "a", "name": 5}, "name: expected a text"),
        ({"role": "root", "content": "a"}, "role: expected one of system, user, assistant, developer"),
    ],
)
def test_a_message_that_means_more(message: dict[str, Any], named: str) -> None:
    error = refusal(CHAT | {"messages": [HI, message]}, VLLM)
    assert str(error).startswith("messages[1].")
    assert named in str(error)
    assert error.param == "messages"


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        (["a", "b"], "expected one text, found 2; send a request for each"), ([], "expected a text"),
        ([1, 2], "not token ids"), ([[1, 2]], "not token ids"), ("", "not empty"), ([""], "not empty"),
    ],
)  # fmt: skip
def test_a_prompt_is_one_text(prompt: Any, named: str) -> None:
    assert named in str(refusal(TEXT | {"prompt": prompt}))
