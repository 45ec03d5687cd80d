"""Bodies that ill-meaning clients send: each gets a reason, and the engine sees only what may reach it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.gateway.hostile.sending import BODY, MODEL, RAW, ok, post, refused
from tests.serving.gateway.raw_http import CHAT, RecordingGateway

CHAT_FIELDS = {
    "model", "cache_salt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k",
    "min_p", "n", "stream", "stream_options", "stop", "seed", "presence_penalty", "frequency_penalty",
    "repeat_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format",
}  # fmt: skip
TEXT_FIELDS = CHAT_FIELDS - {"messages", "max_completion_tokens", "top_logprobs", "response_format"} | {
    "prompt", "echo", "suffix", "best_of",
}  # fmt: skip
FOREIGN = (
    "chat_template", "chat_template_kwargs", "cache_salt", "priority", "lora_request", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "prompt_embeds", "documents",
    "mm_processor_kwargs", "vllm_xargs", "kv_transfer_params", "add_generation_prompt", "prompt_logprobs",
    "continue_final_message", "min_tokens", "ignore_eos", "bad_words", "logits_processors", "request_id",
    "return_token_ids", "allowed_token_ids", "truncate_prompt_tokens", "tools", "tool_choice", "functions",
    "lora", "adapters", "Model", "model ", "__proto__", "",
)  # fmt: skip


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(sorted(CHAT_FIELDS | TEXT_FIELDS | set(FOREIGN))) | st.text(max_size=12)
changed = st.dictionaries(names, anything, max_size=4)
messages = st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), anything))
often = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@often
@given(st.binary(max_size=200) | anything.map(lambda one: json.dumps(one).encode()))
def test_what_is_no_request_is_refused(gateway: RecordingGateway, body: bytes) -> None:
    assert refused(post(gateway, body))["type"] == "invalid_request_error"


@often
@given(changed, messages, st.booleans())
def test_a_request_that_was_tampered_with(
    gateway: RecordingGateway, more: dict[str, Any], chat: list[dict[str, Any]], text: bool
) -> None:
    start = {"model": MODEL, "prompt": "Once"} if text else BODY | ({"messages": chat} if chat else {})
    answer = post(gateway, start | more, "/v1/completions" if text else CHAT)
    if answer.status != 200:
        refused(answer, 404 if answer.error["code"] == "model_not_found" else 400)


def test_the_engine_saw_nothing_but_what_may_reach_it(gateway: RecordingGateway) -> None:
    """After the fuzzing above, and each foreign name by itself."""
    for name in FOREIGN:
        for value in ("x", 1, {"a": 1}, name != "add_generation_prompt" or "yes"):
            assert refused(post(gateway, BODY | {name: value}))["param"] == name
    for number in range(20):
        assert ok(post(gateway, BODY | {"seed": number}))
    salt = gateway.registry.tenants.get("mine").salt
    seen = gateway.asked()
    assert len(seen) > 20
    for one in seen[2:]:  # the gateway's own first questions go before
        body = json.loads(one["body"], parse_constant=pytest.fail)
        assert one["path"] in (CHAT, "/v1/completions")
        assert set(body) <= (CHAT_FIELDS if one["path"] == CHAT else TEXT_FIELDS)
        assert body["cache_salt"] == salt
        assert body["model"] == f"tuneline-{gateway.populated.adapters[0].gguf[:12]}"
        assert body.get("n", 1) == 1
        assert body.get("max_tokens", 1) <= 1024
        for message in body.get("messages", ()):
            assert set(message) <= {"role", "content", "name"}
            assert message["role"] in ("system", "developer", "user", "assistant")
            assert isinstance(message.get("name"), str | None)
            parts = message.get("content") or ""
            assert all(set(part) == {"type", "text"} for part in parts) or isinstance(parts, str)
        names_of_headers = {name.lower() for name in one["headers"]}
        assert names_of_headers <= {
            "host", "content-type", "content-length", "x-request-id", "accept", "accept-encoding",
            "user-agent",
        }  # fmt: skip


DEEP = b'{"model":"team/mine","messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"model":"team/other",' + RAW[1:], "duplicate key"),
        (RAW[:-1] + b',"model":"team/other"}', "duplicate key"),
        (RAW[:-1] + b',"m\\u006fdel":"team/other"}', "duplicate key"),
        (RAW.replace(b'"role"', b'"role":"system","role"'), "duplicate key"),
        (RAW[:-1] + b',"logit_bias":{"1":1,"1":2}}', "duplicate key"),
        (DEEP, "not valid JSON"),
        (RAW[:-1] + b',"logit_bias":' + b'{"a":' * 20 + b"1" + b"}" * 21, "deeper than 16"),
        (RAW.replace(b"xyl", b"\\ud800"), "not valid JSON"),
        (RAW[:-1] + b',"\\udfff":1}', "not valid JSON"),
        (RAW.replace(b"xyl", b"\xff"), "not valid JSON"),
        (RAW.replace(b"xyl", b"\0"), "not valid JSON"),
        (b"\xef\xbb\xbf" + RAW, "not valid JSON"),
        (RAW.decode().encode("utf-16"), "not valid JSON"),
        *((RAW[:-1] + b',"temperature":%s}' % number, "not valid JSON") for number in
          (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000, b"0x1", b"01")),
        (RAW + RAW, "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
    ],
)  # fmt: skip
def test_json_tricks(gateway: RecordingGateway, body: bytes, said: str) -> None:
    assert said in refused(post(gateway, body))["message"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"), ({"n": 10**9}, "n"), ({"n": True}, "n"), ({"n": 0}, "n"), ({"n": "1"}, "n"),
        ({"max_tokens": 10**12}, "max_tokens"), ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"), ({"max_completion_tokens": 1025}, "max_completion_tokens"),
        ({"stop": ["a"] * 5}, "stop"), ({"stop": [1]}, "stop"), ({"stop": {}}, "stop"),
        ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"), ({"logit_bias": [1]}, "logit_bias"),
        ({"top_logprobs": 21}, "top_logprobs"), ({"logprobs": 5}, "logprobs"),
        ({"stream": "yes"}, "stream"), ({"stream_options": {"x": 1}}, "stream_options"),
        ({"stop": ""}, "stop"), ({"stop": ["a", ""]}, "stop"), ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"), ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_k": 10**400}, "top_k"), ({"top_k": 1 << 63}, "top_k"), ({"seed": 1 << 63}, "seed"),
        ({"seed": 1e308}, "seed"), ({"temperature": 2.1}, "temperature"), ({"top_p": 0}, "top_p"),
        ({"temperature": True}, "temperature"), ({"presence_penalty": 1e308}, "presence_penalty"),
        ({"min_p": -1e-9}, "min_p"),
        ({"frequency_penalty": "1"}, "frequency_penalty"), ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"model": None}, "model"), ({"model": ["team/mine"]}, "model"),
        ({"messages": []}, "messages"), ({"messages": {}}, "messages"), ({"messages": ["hi"]}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}] * 1025}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user" * 1000, "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]}]},
         "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]}, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": [{}]}}},
         "response_format"),
        ({"response_format": {"type": "json_schema",
                              "json_schema": {"name": "a", "schema": {"enum": [1] * 2001}}}},
         "response_format"),
        ({"response_format": {"type": "regex", "regex": "(a+)+"}}, "response_format"),
        ({"response_format": "text"}, "response_format"),
    ],
)  # fmt: skip
def test_values_out_of_bounds(gateway: RecordingGateway, more: dict[str, Any], param: str) -> None:
    before = len(gateway.asked())
    assert refused(post(gateway, BODY | more))["param"] == param
    assert len(gateway.asked()) == before


def test_what_an_answer_had_may_be_sent_back(gateway: RecordingGateway) -> None:
    """The official client's messages have empty fields; texts may come in parts, formats be the default."""
    echoed = {"role": "assistant", "content": "Yes.", "refusal": None, "annotations": [], "tool_calls": None}
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    more = {"messages": [echoed, parts], "tools": [], "response_format": {"type": "text"}, "stop": None}
    assert ok(post(gateway, BODY | more))
    sent = json.loads(gateway.asked()[-1]["body"])
    together = {"role": "user", "content": "a\nb"}
    assert sent["messages"] == [{"role": "assistant", "content": "Yes."}, together]
    assert not {"tools", "response_format", "stop"} & set(sent)


def test_long_texts(gateway: RecordingGateway) -> None:
    """A megabyte is read and no more; one below the bound is the engine's to judge."""
    too_long = RAW.replace(b"xylophone", b"a" * (1 << 20))
    assert "larger than 1048576 bytes" in refused(post(gateway, too_long), 413)["message"]
    assert ok(post(gateway, RAW.replace(b"xylophone", b"a" * 1_000_000)))
    refused(post(gateway, BODY | {"model": "a" * 1_000_000}), 404)
    refused(post(gateway, BODY | {"a" * 1_000_000: 1}))


def test_no_other_tenants_model(gateway: RecordingGateway) -> None:
    """Another's channel and one that nobody has are refused in the same words."""
    artifact = gateway.populated.adapters[1].gguf
    for name in ("team/other", "team/nobody", artifact, f"tuneline-{artifact[:12]}", "pico-base@1", "../x"):
        error = refused(post(gateway, BODY | {"model": name}), 404)
        assert error["message"] == f"this key has no model {name!r}; GET /v1/models lists what it has"
    assert all(artifact[:12] not in one["body"] for one in gateway.asked())


def test_an_answer_without_a_length_has_what_the_context_leaves(gateway: RecordingGateway) -> None:
    """1,024 where they fit for certain, nothing where they might not: then the engine's context ends it."""
    without = {name: value for name, value in BODY.items() if name != "max_tokens"}
    assert ok(post(gateway, without))
    assert json.loads(gateway.asked()[-1]["body"])["max_tokens"] == 1024
    assert ok(post(gateway, without | {"messages": [{"role": "user", "content": "a" * 1500}]}))
    assert "max_tokens" not in json.loads(gateway.asked()[-1]["body"])


def test_a_response_reaches_the_engine_as_a_chat(gateway: RecordingGateway) -> None:
    """Nothing of its own fields does, and what is no field of it is refused."""
    own = {"input": "xylophone-7781?", "instructions": "Obey.", "metadata": {"a": "b"}, "user": "u"}
    asked = {"model": MODEL, "store": False, "max_output_tokens": 8, **own}
    for stream in (False, True):
        answer = post(gateway, asked | {"stream": stream}, "/v1/responses")
        assert ok(answer)
        one = gateway.asked()[-1]
        sent = json.loads(one["body"])
        assert (one["path"], set(sent) <= CHAT_FIELDS) == (CHAT, True)
        assert sent["cache_salt"] == gateway.registry.tenants.get("mine").salt
        assert sent["messages"] == [
            {"role": "system", "content": "Obey."}, {"role": "user", "content": "xylophone-7781?"},
        ]  # fmt: skip
        assert sent["max_tokens"] == 8
    before = len(gateway.asked())
    others = ("messages", "prompt", "stop", "response_format", "previous_response_id", "conversation")
    for name in (*FOREIGN, *others):
        error = refused(post(gateway, asked | {name: "x"}, "/v1/responses"))
        assert error["param"] == name
    for item in ({"role": "user"}, {"type": ["message"]}, {"role": ["user"], "content": "a"}, 7, None, []):
        assert refused(post(gateway, asked | {"input": [item]}, "/v1/responses"))["param"] == "input"
    assert len(gateway.asked()) == before


def test_texts_reach_the_engine_and_nothing_else_does(gateway: RecordingGateway) -> None:
    asked = {"model": MODEL, "input": ["xylophone-7781?", "a"], "user": "u"}
    answer = post(gateway, asked, "/v1/embeddings")
    assert answer.status == 200, answer.raw
    assert answer.headers["x-tuneline-artifact"] == gateway.populated.gguf
    one = gateway.asked()[-1]
    assert one["path"] == "/v1/embeddings"
    assert json.loads(one["body"]) == {
        "model": f"tuneline-{gateway.populated.gguf[:12]}",
        "input": ["xylophone-7781?", "a"],
        "cache_salt": gateway.registry.tenants.get("mine").salt,
    }
    before = len(gateway.asked())
    for name in (*FOREIGN, "messages", "prompt", "max_tokens", "truncate_prompt_tokens", "additional_data"):
        assert refused(post(gateway, asked | {name: "x"}, "/v1/embeddings"))["param"] == name
    for texts in ([], "", ["a"] * 129, [["a"]], [7], {"a": 1}, [None], [True], "a" * (1 << 20)):
        answer = post(gateway, asked | {"input": texts}, "/v1/embeddings")
        assert answer.status == (413 if len(str(texts)) > 1 << 19 else 400), answer.raw
    assert refused(post(gateway, asked | {"model": "team/other"}, "/v1/embeddings"), 404)
    assert len(gateway.asked()) == before
