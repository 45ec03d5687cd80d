"""The Responses API without its memory: its requests as chats, and a chat's answer in its shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from serving.gateway.request_policy import read_response as read_at_gateway
from serving.openai_api.errors import ApiError
from serving.openai_api.request import LACKING, CompletionRequest, RequestLimits
from serving.openai_api.responses.answer import ResponseWriter
from serving.openai_api.responses.request import in_its_words, read_response
from serving.openai_api.responses.stream import ResponseStream

ASKED = {"model": "team/mine", "input": "Hi"}
HI = {"role": "user", "content": "Hi"}
LLAMA, VLLM = (RequestLimits(max_tokens=1024, lacking=LACKING[engine]) for engine in ("llama.cpp", "vllm"))
TOOL = {"type": "function", "name": "book", "description": "Book a room", "parameters": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 2,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 3},
}


def read(limits: RequestLimits = LLAMA, **more: Any) -> CompletionRequest:
    return read_response(json.dumps(ASKED | more).encode(), limits).completion


def messages(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return list(read(input=list(items)).messages or ())


def refusal(limits: RequestLimits = LLAMA, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(limits, **more)
    return caught.value


def test_a_text_and_instructions_are_a_chat() -> None:
    assert read().body() == {"messages": [HI]}
    plain = read(instructions="Be brief.", max_output_tokens=9, temperature=0, top_p=0.5, seed=3)
    assert plain.body() == {
        "messages": [{"role": "system", "content": "Be brief."}, HI],
        "max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "seed": 3,
    }  # fmt: skip
    streamed = read(stream=True, stream_options={"include_obfuscation": False})
    assert streamed.body()["stream_options"] == {"include_usage": True}


def test_items_are_messages_and_what_an_answer_had_may_be_sent_back() -> None:
    said = {
        "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": [{"token": "Y"}]}],
    }  # fmt: skip
    thought = {"id": "rs_1", "type": "reasoning", "summary": [], "status": "completed",
               "content": [{"type": "reasoning_text", "text": "Hm."}]}  # fmt: skip
    calls = [
        {"id": f"fc_{n}", "type": "function_call", "call_id": f"a{n}", "name": "book", "arguments": "{}",
         "status": "completed"}
        for n in (1, 2)
    ]  # fmt: skip
    results = [
        {"type": "function_call_output", "call_id": "a1", "output": "Booked"},
        {"type": "function_call_output", "call_id": "a2", "output": [{"type": "input_text", "text": "No"}]},
    ]
    made = [
        {"id": f"a{n}", "type": "function", "function": {"name": "book", "arguments": "{}"}} for n in (1, 2)
    ]
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert messages(
        {"role": "developer", "content": "Obey."}, {"role": "user", "content": parts}, thought, said, *calls,
        *results, said, calls[0], thought, said,
    ) == [
        {"role": "system", "content": "Obey."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "tool_calls": made},
        {"role": "tool", "content": "Booked", "tool_call_id": "a1"},
        {"role": "tool", "content": "No", "tool_call_id": "a2"},
        {"role": "assistant", "content": "Yes.", "tool_calls": made[:1]},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."},
    ]  # fmt: skip
    assert messages(calls[0], said) == [
        {"role": "assistant", "content": "", "tool_calls": made[:1]},
        {"role": "assistant", "content": "Yes."},
    ]


def test_functions_and_forms_are_those_of_a_chat() -> None:
    asked = read(tools=[TOOL | {"strict": None}], tool_choice="required", parallel_tool_calls=False)
    function = {name: value for name, value in TOOL.items() if name != "type"}
    assert asked.body()["tools"] == [{"type": "function", "function": function}]
    assert (asked.body()["tool_choice"], asked.body()["parallel_tool_calls"]) == ("required", False)
    named = read(tools=[TOOL], tool_choice={"type": "function", "name": "book"})
    assert named.tools is not None
    assert named.tools.named == "book"
    assert read(tools=[TOOL], tool_choice="none").tools is None
    form = {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}
    assert read(text={"format": form}).body()["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA},
    }  # fmt: skip
    assert read(text={"format": {"type": "json_object"}}).body()["response_format"] == {"type": "json_object"}
    scored = read(include=["message.output_text.logprobs"], top_logprobs=2)
    assert (scored.body()["logprobs"], scored.body()["top_logprobs"], scored.likeliest) == (True, 2, 2)


NOTHING: dict[str, Any] = {
    "store": False, "background": False, "truncation": "disabled", "include": [],
    "previous_response_id": None,
    "conversation": None, "prompt": None, "reasoning": {"effort": None, "summary": None}, "metadata": {},
    "user": "u", "service_tier": "auto", "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}, "verbosity": "medium"}, "top_logprobs": 0, "instructions": None,
    "stream": False, "max_output_tokens": None, "safety_identifier": "s", "prompt_cache_key": "k", "n": 1,
    "stream_options": None, "top_p": 1.0, "max_tool_calls": None,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NOTHING))
@pytest.mark.parametrize("limits", [LLAMA, VLLM], ids=["llama.cpp", "vllm"])
def test_what_says_nothing_is_accepted(name: str, limits: RequestLimits) -> None:
    assert read(limits, **{name: NOTHING[name]}).body() == {"messages": [HI]}


MEANT: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "nothing is kept of a response; send the earlier items in `input`"),
    ({"conversation": "conv_1"}, "nothing is kept of a response"),
    ({"store": True}, "responses are not kept; send `store: false`, or leave it out"),
    ({"background": True}, "'background' is not accepted here: every response is answered at once"),
    ({"prompt": {"id": "pmpt_1"}}, "'prompt' is not accepted here: templates of prompts are not kept"),
    ({"reasoning": {"effort": "high"}}, "'reasoning' is not accepted here: how much a model thinks"),
    ({"truncation": "auto"}, "'truncation' is not accepted here: an input that is too long is refused"),
    ({"max_tool_calls": 3}, "'max_tool_calls' is not accepted here"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]: expected {type: function, name, description"),
    ({"tools": [{"type": "mcp", "server_label": "a"}]}, "tools[0]: expected {type: function"),
    ({"tools": [{"type": "file_search"}]}, "tools[0]: expected {type: function"),
    ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name: expected 1 to 64 letters"),
    ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading is not accepted here"),
    ({"tools": "book"}, "tools: expected a list of up to 64 functions"),
    ({"tool_choice": {"type": "function", "name": "book"}}, "tool_choice: expected none, auto, required"),
    ({"include": ["reasoning.encrypted_content"]}, "'reasoning.encrypted_content' is not given here"),
    ({"top_logprobs": 2}, "top_logprobs: expected 'message.output_text.logprobs' in `include` with it"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format: expected {type: text}"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema: expected a JSON"),
    ({"text": {"verbosity": "low"}}, "text.verbosity: how much is said is not set here"),
    ({"metadata": {"a": 1}}, "metadata: expected an object whose values are texts"),
    ({"max_output_tokens": 4096}, "max_output_tokens: an answer may have 1024 tokens at most"),
    ({"n": 2}, "'n' is not accepted here: a response is one answer"),
    ({"messages": [HI]}, "'messages' is not accepted here"),
    ({"moderation": {"model": "m"}}, "'moderation' is not accepted here; leave it out"),
    ({"input": ""}, "input: expected a text that is not empty, or a list of 1 to 1024 items"),
    ({"input": []}, "input: expected a text that is not empty, or a list of 1 to 1024 items, found []"),
    ({"input": [HI, {"type": "function_call_output", "call_id": "a", "output": "4"}]},
     'input: the result with tool_call_id "a" answers no call'),
    ({"stream_options": {"include_usage": True}}, "stream_options: expected `stream: true` with it"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]: nothing is kept that could be"),
    ({"input": [{"type": "computer_call_output"}]}, "input[0].type: expected one of message, function_call"),
    ({"input": ["Hi"]}, "input[0]: expected an object"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input: expected an item that says something"),
    ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role: expected one of user, assistant"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
     "input[0].content: expected a text, or parts of type input_text or output_text"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
     "input[0].content: expected a text, or parts of type input_text or output_text"),
    ({"input": [{"role": "user", "content": "a", "name": "bo"}]}, "input[0].name is not accepted here"),
    ({"input": [HI, {"type": "function_call", "call_id": "a", "name": "book", "arguments": "["}]},
     "input[1].arguments: expected the JSON text of an object"),
    ({"input": [HI, {"type": "function_call_output", "call_id": "a"}]}, "input[1].output: expected a text"),
    ({"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}]},
     "input[0].summary is not accepted here"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), MEANT)
def test_what_is_not_done_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    error = refusal(**given)
    assert said in str(error)
    assert (error.param, error.status) == (next(iter(given)), 400)


def test_what_one_engine_does_not_do() -> None:
    assert "'tools' is not supported by the engines here" in str(refusal(VLLM, tools=[TOOL]))
    call = {"type": "function_call", "call_id": "a", "name": "book", "arguments": "{}"}
    assert "input[0]: no engine here calls functions" in str(refusal(VLLM, input=[call]))
    both = refusal(tools=[TOOL], text={"format": {"type": "json_object"}})
    assert str(both).startswith("text.format: an answer that may call tools has no other form")


def test_the_gateway_reserves_for_all_that_is_read() -> None:
    given = ASKED | {"instructions": "Be brief.", "tools": [TOOL]}
    asked = read_at_gateway(json.dumps(given).encode(), LLAMA)
    assert asked.tools is not None
    assert asked.size == len("Be brief.") + len("Hi") + len(json.dumps(asked.tools.offered[0]))
    assert (asked.turns, asked.cap) == (2, 1024)
    with pytest.raises(ApiError, match=r"each tenant has a salt of its own"):
        read_at_gateway(json.dumps(given | {"cache_salt": "x"}).encode(), LLAMA)


def test_an_engines_refusal_in_the_words_of_a_response() -> None:
    long = "this model's maximum context length is 8 tokens: ask for 2 at most, or leave max_tokens out"
    told = in_its_words(ApiError(long, "messages", 400, "context_length_exceeded"))
    assert str(told).endswith("or leave max_output_tokens out")
    assert (told.param, told.code) == ("input", "context_length_exceeded")
    schema = in_its_words(ApiError("response_format: this JSON schema is refused: no", "response_format"))
    assert (str(schema), schema.param) == ("text.format: this JSON schema is refused: no", "text.format")
    busy = ApiError("later", None, 429, "overloaded")
    busy.retry_after = 7
    assert in_its_words(busy).retry_after == 7


def writer(**more: Any) -> ResponseWriter:
    asked = read_response(json.dumps(ASKED | more).encode(), LLAMA)
    return ResponseWriter(asked.completion.model, asked.echo)


def completion(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **message}, **more}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": USAGE}


SCORE = {"token": "Yes", "logprob": -0.5, "bytes": [89], "top_logprobs": []}
CALL = {"id": "a1", "type": "function", "function": {"name": "book", "arguments": '{"a": 1}'}}


def test_a_whole_answer_in_its_shape() -> None:
    said = writer(metadata={"a": "b"}, instructions="Be brief.", temperature=0).whole(
        completion({"content": "Yes."}, logprobs={"content": [SCORE]})
    )
    response = Response.model_validate(said)
    assert (response.output_text, response.status, response.model) == ("Yes.", "completed", "team/mine")
    assert (response.metadata, response.instructions, response.temperature) == ({"a": "b"}, "Be brief.", 0)
    assert said["store"] is False
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 2)
    assert response.usage.total_tokens == 7
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert said["output"][0]["content"][0]["logprobs"] == [SCORE]
    assert response.incomplete_details is None
    cut = writer().whole(completion({"content": "Ye"}, "length"))
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["status"] == "incomplete"


def test_thoughts_and_calls_are_items_of_their_own() -> None:
    said = writer(tools=[TOOL]).whole(
        completion({"content": None, "reasoning_content": "Hm.", "tool_calls": [CALL, CALL]}, "tool_calls")
    )
    response = Response.model_validate(said)
    assert [item.type for item in response.output] == ["reasoning", "function_call", "function_call"]
    assert len({item.id for item in response.output}) == 3
    assert said["output"][1] | {"id": ""} == {
        "id": "", "type": "function_call", "call_id": "a1", "name": "book", "arguments": '{"a": 1}',
        "status": "completed",
    }  # fmt: skip
    assert said["tools"] == [TOOL]
    empty = writer().whole(completion({"content": ""}))
    assert [item["type"] for item in empty["output"]] == ["message"]


def chunk(delta: dict[str, Any], reason: str | None = None, scores: Any = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": scores}
    return json.dumps({"id": "chatcmpl-1", "choices": [choice]}).encode()


END = (json.dumps({"choices": [], "usage": USAGE}).encode(), b"[DONE]")


def told(*data: bytes, **more: Any) -> list[dict[str, Any]]:
    """Each event of a stream, whose lines have to be as the API has them."""
    stream = ResponseStream(writer(**more))
    raw = b"".join(stream.event(one) for one in data).decode()
    events = []
    for event in raw.split("\n\n")[:-1]:
        name, _, line = event.partition("\n")
        events.append(json.loads(line.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_while_it_comes() -> None:
    scores = {"content": [SCORE], "refusal": None}
    events = told(
        chunk({"role": "assistant", "content": ""}), chunk({"content": "Y"}, scores=scores),
        chunk({"content": "es."}), chunk({}, "stop"), *END,
    )  # fmt: skip
    assert names(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert "".join(event["delta"] for event in events if event["type"].endswith(".delta")) == "Yes."
    assert (events[4]["logprobs"], events[5]["logprobs"], events[6]["logprobs"]) == ([SCORE], [], [SCORE])
    final = Response.model_validate(events[-1]["response"])
    assert (final.output_text, final.id) == ("Yes.", events[0]["response"]["id"])
    assert final.usage is not None
    assert final.usage.total_tokens == 7
    assert events[0]["response"]["usage"] is None
    assert {event["item_id"] for event in events if "item_id" in event} == {final.output[0].id}


def test_thoughts_texts_and_calls_while_they_come() -> None:
    """A call whole, as llama.cpp's engine tells it, and one in pieces, as vLLM does."""
    pieces = [
        {"tool_calls": [{"index": 1, "id": "a2", "type": "function", "function": {"name": "book"}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": ": 2}"}}]},
    ]
    events = told(
        chunk({"reasoning_content": "Hm"}), chunk({"reasoning_content": "."}), chunk({"content": "So:"}),
        chunk({"tool_calls": [{"index": 0, **CALL}]}), *map(chunk, pieces), chunk({}, "tool_calls"), *END,
    )  # fmt: skip
    final = events[-1]["response"]
    assert [item["type"] for item in final["output"]] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip
    assert [(item["call_id"], item["arguments"]) for item in final["output"][2:]] == [
        ("a1", '{"a": 1}'), ("a2", '{"a": 2}'),
    ]  # fmt: skip
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item["id"] for item in added] == [item["id"] for item in done]
    assert {item["status"] for item in added} == {"in_progress"}
    assert names(events).count("function_call_arguments.delta") == 3
    assert names(events).count("function_call_arguments.done") == 2
    assert names(events).count("reasoning_text.delta") == 2


@pytest.mark.parametrize(
    ("data", "last"),
    [
        ((chunk({"content": "Y"}), chunk({}, "length"), *END), "incomplete"),
        (END, "completed"),
        ((chunk({"content": "Y"}), b'{"error": {"message": "no", "type": "server_error"}}', *END), "failed"),
        ((b'{"error": {"message": "no", "type": "rate_limit_error"}}',), "failed"),
        ((chunk({"content": "Y"}), b"no JSON", *END), "failed"),
        ((b"[]", *END), "failed"),
        ((b'{"choices": [7]}', *END), "failed"),
    ],
)  # fmt: skip
def test_every_stream_has_one_end(data: tuple[bytes, ...], last: str) -> None:
    events = told(*data)
    assert names(events)[:2] == ["created", "in_progress"]
    ends = [name for name in names(events) if name in ("completed", "incomplete", "failed")]
    assert ends == [names(events)[-1]] == [last]
    response = Response.model_validate(events[-1]["response"])
    assert response.status == last
    assert (response.error is not None) == (last == "failed")


def test_a_stream_that_breaks_off_is_a_failed_response() -> None:
    stream = ResponseStream(writer())
    stream.event(chunk({"content": "Y"}))
    said = stream.failed(ApiError("the engine ended", None, 503, "unavailable").body["error"]).decode()
    assert said.startswith("event: response.failed\n")
    assert '"code":"server_error","message":"the engine ended"' in said
    assert stream.failed({}) == stream.event(END[1]) == b""
