"""What ill-meaning clients send: each gets a reason and nothing else, and nothing of it stays or passes on.

The engine here is a process that writes down what it is asked, as that is what these tests are about.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.seconds import seconds
from tests.serving.gateway.live_gateway import SLOWEST, until
from tests.serving.gateway.raw_http import (
    CHAT,
    Answer,
    RecordingGateway,
    exchange,
    parsed,
    recording,
    request,
    rest,
)
from tests.serving.gateway.recording_engine import FLOOD, LENGTHY
from tests.serving.populated_registry import kept_registry

MODEL = "team/mine"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "xylophone-7781?"}], "max_tokens": 8}
RAW = json.dumps(BODY).encode()
SECONDS = seconds(0.6)
"""What a client may take for its headers, its body, and to read."""
CONNECTIONS = 40
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


@pytest.fixture(scope="module")
def gateway(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RecordingGateway]:
    folder = tmp_path_factory.mktemp("hostile")
    populated = kept_registry(pytestconfig.rootpath, folder / "home", 3)
    seconds = dict.fromkeys(("header_seconds", "body_seconds", "write_seconds"), SECONDS)
    with recording(populated, folder, seconds | {"connections": CONNECTIONS}) as found:
        found.tenant("mine", populated.adapters[0].gguf)
        found.tenant("other", populated.adapters[1].gguf)
        yield found


@pytest.fixture(scope="module")
def key(gateway: RecordingGateway) -> str:
    return gateway.keys["mine"]


@pytest.fixture(autouse=True)
def still_answers(gateway: RecordingGateway, key: str) -> Iterator[None]:
    """Whatever a test did, the gateway answers right after it and holds nothing of it."""
    assert ok(exchange(gateway.address, request(RAW, key)))
    before = gateway.held()
    yield
    gateway.idle_as(before)
    assert ok(exchange(gateway.address, request(RAW, key)))


def ok(answer: Answer) -> bool:
    return answer.status == 200 and b"Yes." in answer.body


def post(gateway: RecordingGateway, body: bytes | dict[str, Any], path: str = CHAT) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return exchange(gateway.address, request(raw, gateway.keys["mine"], f"POST {path} HTTP/1.1"))


def refused(answer: Answer, status: int = 400) -> dict[str, Any]:
    """Why it was refused; no answer and no trace of the program's inside is in it."""
    assert answer.status == status, answer.raw
    assert b"Traceback" not in answer.raw
    assert b"/serving/" not in answer.raw
    assert len(answer.headers["x-request-id"]) == 32
    return answer.error


# Bodies

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
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
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


# HTTP


def cases(key: str) -> dict[str, tuple[bytes, int]]:
    """What is sent, and the status that it gets."""
    again = f"Authorization: Bearer {key}".encode()
    chunked, x = b"Transfer-Encoding: chunked", b"X-A: "

    def with_(*headers: bytes, **more: Any) -> bytes:
        return request(more.pop("body", RAW), key, headers=headers, **more)

    def unsized(*headers: bytes, body: bytes) -> bytes:
        return with_(*headers, body=body, length=False)

    return {
        "two keys": (with_(again), 400),
        "two keys in one": (request(RAW, f"{key}, Bearer {key}"), 401),
        "no key": (request(RAW), 401),
        "an empty key": (request(RAW, headers=[b"Authorization: Bearer "]), 401),
        "a key that is no text": (request(RAW, headers=[b"Authorization: Bearer \xff\xfe"]), 401),
        "another scheme": (request(RAW, headers=[f"Authorization: Basic {key}".encode()]), 401),
        "half a key": (request(RAW, key[:-1]), 401),
        "the key's id": (request(RAW, "-".join(key.split("-")[:2])), 401),
        "two hosts": (with_(b"Host: other"), 400),
        "no host": (with_().replace(b"Host: gateway\r\n", b""), 400),
        "two lengths": (with_(b"Content-Length: 3"), 400),
        "the length twice": (with_(b"Content-Length: %d" % len(RAW)), 400),
        "a length with a sign": (unsized(b"Content-Length: +3", body=b"{} "), 400),
        "a negative length": (unsized(b"Content-Length: -1", body=b""), 400),
        "an endless length": (unsized(b"Content-Length: " + b"9" * 30, body=b""), 400),
        "a length in hexadecimals": (unsized(b"Content-Length: 0x3", body=b"{} "), 400),
        "length and chunks": (with_(chunked), 400),
        "chunks twice": (unsized(chunked, chunked, body=b"0\r\n\r\n"), 400),
        "other chunks": (unsized(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
        "chunks of nonsense": (unsized(chunked, body=b"zz\r\nhello\r\n0\r\n\r\n"), 400),
        "a chunk of negative size": (unsized(chunked, body=b"-5\r\nhello\r\n0\r\n\r\n"), 400),
        "an endless chunk": (unsized(chunked, body=b"f" * 20 + b"\r\nhello\r\n0\r\n\r\n"), 400),
        "a folded header": (with_(x + b"a\r\n b"), 400),
        "a huge header": (with_(x + b"a" * 100_000), 400),
        "headers without end": (with_(*(b"X-%d: a" % i for i in range(1000))), 400),
        "a space in a name": (with_(b"X-A : a"), 400),
        "a header that is none": (with_(b"nothing"), 400),
        "a zero in a value": (with_(x + b"a\0b"), 400),
        "a zero in the key": (request(RAW, key + "\0"), 400),
        "a line feed by itself": (with_(x + b"a\nX-B: b"), 400),
        "a return by itself": (with_(x + b"a\rX-B: b"), 400),
        "a compressed body": (with_(b"Content-Encoding: gzip", body=gzip.compress(RAW)), 415),
        "a bomb": (with_(b"Content-Encoding: gzip", body=gzip.compress(bytes(10**8), 1)), 415),
        "compressed twice": (with_(b"Content-Encoding: gzip, deflate, br"), 415),
        "another expectation": (with_(b"Expect: 200-maybe"), 417),
        "HTTP of the future": (request(RAW, key, f"POST {CHAT} HTTP/3.7"), 400),
        "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        "TLS": (bytes.fromhex("16030100a5010000a1030365") + bytes(60), 400),
        "no HTTP": (b"\0\1\2 garbage\r\n\r\n", 400),
        "an unknown method": (request(RAW, key, f"BREW {CHAT} HTTP/1.1"), 400),
        "a method in small letters": (request(RAW, key, f"post {CHAT} HTTP/1.1"), 400),
        **{
            method: (request(b"", key, f"{method} {CHAT} HTTP/1.1"), 405)
            for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH")
        },
        "a query": (request(RAW, key, f"POST {CHAT}?key=1 HTTP/1.1"), 400),
        "a proxy's method": (request(b"", key, "CONNECT gateway:443 HTTP/1.1"), 404),
        "a websocket": (with_(b"Upgrade: websocket", line="GET /v1/realtime HTTP/1.1"), 404),
        "a long path": (request(b"", key, f"GET /{'a' * 100_000} HTTP/1.1"), 400),
        "no path": (request(RAW, key, "POST * HTTP/1.1"), 400),
        "a zero in the path": (request(RAW, key, f"POST {CHAT}\0 HTTP/1.1"), 400),
        "a space in the path": (request(RAW, key, "POST /v1/chat completions HTTP/1.1"), 400),
        **{
            path: (request(RAW, key, f"POST {path} HTTP/1.1"), 404)
            for path in (
                "/v1/../v1/chat/completions", "/v1/%2e%2e/v1/chat/completions", "//v1/chat/completions",
                "/v1/chat/completions/",
                "/v1/chat/completions#a", "/v1/chat/comple%74ions", "/V1/chat/completions",
                "/v1/chat/completions;a=b", "/v1/chat%2fcompletions", "/v1/chat/completions%00",
                "/v1/chat/completions%0d%0aX-A:%20b", "http://gateway/v1/chat/completions", "/",
                "http://engine/adapters", "/adapters", "/v1/load_lora_adapter", "/%ff%e2%80%a8%1b[31m",
            )
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(cases("")))
def test_http_tricks(gateway: RecordingGateway, key: str, name: str) -> None:
    data, status = cases(key)[name]
    before = len(gateway.asked())
    answer = exchange(gateway.address, data)
    if name == "HEAD":
        assert answer.status == status
        assert answer.body == b""
    else:
        error = refused(answer, status)
        assert key not in error["message"]
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)
    assert len(gateway.asked()) == before, "the engine hears nothing of it"


@pytest.mark.parametrize(
    "header",
    [
        "X-Tenant: other", "X_Tenant: other", "X-Tuneline-Tenant: other", "X-Tuneline-Artifact: 00",
        "X-Model: other", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: inside", "X-Real-IP: ::1",
        "Forwarded: for=127.0.0.1", "X-Original-URL: /adapters", "X-HTTP-Method-Override: DELETE",
        "X-Request-Id: a\tb", "X-Cache-Salt: 0", "X-Tuneline-Control: 00", "Cookie: tenant=other",
        "OpenAI-Organization: other", "Proxy-Authorization: Basic eDp4", "Upgrade: websocket",
        "TE: trailers", "X-A: " + "a" * 8000,
    ],
)  # fmt: skip
def test_headers_that_nobody_obeys(gateway: RecordingGateway, key: str, header: str) -> None:
    answer = exchange(gateway.address, request(RAW, key, headers=[header.encode()]))
    assert ok(answer)
    assert answer.headers["x-tuneline-artifact"] == gateway.populated.adapters[0].gguf
    seen = {name.lower(): value for name, value in gateway.asked()[-1]["headers"].items()}
    assert header.split(": ", 1)[1] not in seen.values()
    assert seen["x-request-id"] == answer.headers["x-request-id"]


def test_old_and_pipelined_requests(gateway: RecordingGateway, key: str) -> None:
    old = exchange(gateway.address, request(RAW, key, f"POST {CHAT} HTTP/1.0", close=False))
    assert ok(old)
    assert old.raw.startswith(b"HTTP/1.0 200")
    first = request(RAW, key, close=False)
    wrong = request(RAW, "tl-wrong", close=False)
    models = request(b"", key, "GET /v1/models HTTP/1.1")
    said = exchange(gateway.address, first + wrong + models).raw
    assert [line.split()[1] for line in said.split(b"HTTP/1.1 ")[1:]] == [b"OK", b"Unauthorized", b"OK"]
    chunked = b"%x\r\n%s\r\n0\r\nAuthorization: Bearer x\r\n\r\n" % (len(RAW), RAW)
    trailer = request(chunked, key, headers=[b"Transfer-Encoding: chunked"], length=False)
    assert ok(exchange(gateway.address, trailer)), "a trailer changes nothing"
    assert refused(exchange(gateway.address, trailer + models))["code"] == "invalid_http"


def test_a_client_that_asks_before_it_sends_its_body(gateway: RecordingGateway, key: str) -> None:
    whole = request(RAW, key, headers=[b"Expect: 100-continue"])
    with socket.create_connection(gateway.address, timeout=SLOWEST) as client:
        client.sendall(whole[: -len(RAW)])
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(RAW)
        assert ok(parsed(rest(client)))


# Slow clients


def trickle(client: socket.socket, data: bytes) -> float:
    """Send a byte now and then, until the gateway has had enough; returns the seconds that took."""
    began = time.monotonic()
    client.settimeout(0.05)
    for byte in data:
        try:
            client.sendall(bytes([byte]))
            if client.recv(1 << 16, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    client.settimeout(SLOWEST)
    return time.monotonic() - began


def test_headers_and_bodies_that_come_a_byte_at_a_time(gateway: RecordingGateway, key: str) -> None:
    with socket.create_connection(gateway.address) as client:
        assert trickle(client, request(RAW, key)) < SECONDS + seconds(5)
        assert rest(client) == b"", "cut without an answer: its headers never came"
    whole = request(RAW, key, close=False)
    with socket.create_connection(gateway.address) as client:
        client.sendall(whole[: -len(RAW)])
        assert trickle(client, RAW) < SECONDS + seconds(5)
        answer = parsed(client.recv(1 << 16))
        assert "did not come within" in refused(answer, 408)["message"]
        client.shutdown(socket.SHUT_WR)
    with socket.create_connection(gateway.address, timeout=SLOWEST) as client:  # nothing at all
        assert rest(client) == b""


def test_a_body_that_is_never_finished(gateway: RecordingGateway, key: str) -> None:
    """The client hangs up in the middle of it, also of a chunk."""
    for headers in ([], [b"Transfer-Encoding: chunked"]):
        sent = request(b"ff\r\n{", key, headers=headers, length=False)
        sent = sent if headers else request(RAW, key)[:-3]
        with socket.create_connection(gateway.address) as client:
            client.sendall(sent)


@pytest.mark.parametrize("stays", [True, False])
def test_a_reader_that_never_reads_lets_go_of_everything(
    gateway: RecordingGateway, key: str, stays: bool
) -> None:
    """The engine answers for as long as it is heard; slot, adapter and connection are free soon after."""
    before = gateway.held()
    body = {**BODY, "messages": [{"role": "user", "content": FLOOD}], "stream": True}
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client:
        client.connect(gateway.address)
        client.sendall(request(json.dumps(body).encode(), key, close=False))
        until(lambda: gateway.held()["users"] == 1, "the engine is at work")
        if not stays:
            client.close()
        gateway.idle_as(before)
        # one slot: another tenant's adapter could not be loaded while this one's was in use
        other = BODY | {"model": "team/other"}
        assert ok(exchange(gateway.address, request(json.dumps(other).encode(), gateway.keys["other"])))


def test_a_client_that_reads_is_never_cut(gateway: RecordingGateway, key: str) -> None:
    """However long its answer, and with more requests behind it in the first bytes that it sent."""
    body = {**BODY, "messages": [{"role": "user", "content": FLOOD}], "stream": True}
    asked = request(json.dumps(body).encode(), key, close=False)
    with socket.create_connection(gateway.address, timeout=SLOWEST) as client:
        client.sendall(asked + asked)
        until_then = time.monotonic() + 2 * SECONDS
        while time.monotonic() < until_then:
            assert client.recv(1 << 16)


def test_an_answer_that_is_never_read_does_not_keep_its_connection(
    gateway: RecordingGateway, key: str
) -> None:
    """Whole answers of many sizes, more than the kernel takes."""
    before = gateway.held()
    with contextlib.ExitStack() as stack:
        for size in range(50_000, 3_000_000, 200_000):
            content = f"{LENGTHY} {size}"
            body = json.dumps({**BODY, "messages": [{"role": "user", "content": content}]}).encode()
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(gateway.address)
            client.sendall(request(body, key))
        until(lambda: LENGTHY in gateway.asked()[-1]["body"], "the engine is asked")
        gateway.idle_as(before)


def test_no_more_connections_than_allowed(gateway: RecordingGateway, key: str) -> None:
    asked = request(b"", key, "GET /v1/models HTTP/1.1", close=False)
    served = 0
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS + 20):
            client = stack.enter_context(socket.create_connection(gateway.address, timeout=SLOWEST))
            with contextlib.suppress(ConnectionError):  # those beyond the bound are closed without a word
                client.sendall(asked)
                served += client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert CONNECTIONS - 2 <= served <= CONNECTIONS


# Afterwards


def test_nothing_of_it_stays_in_memory(gateway: RecordingGateway, key: str) -> None:
    process = psutil.Process(gateway.process.pid)
    tricks = [data for data, _ in cases(key).values() if len(data) < 10_000]

    def attack(rounds: int) -> int:
        for _ in range(rounds):
            for data in tricks:
                exchange(gateway.address, data)
        return process.memory_info().rss

    settled = attack(4)
    assert attack(8) - settled < 8 << 20


def test_the_log_has_lines_and_no_words(gateway: RecordingGateway, key: str) -> None:
    """One JSON object a line, in ASCII; no prompt, no key, no stack trace, and no path but the known ones."""
    text = gateway.log.read_text()
    assert text.isascii()
    assert "\x1b" not in text
    assert "xylophone-7781" not in text
    assert key not in text
    assert key.split("-", 2)[2][:16] not in text
    lines = gateway.lines()
    assert not [line for line in lines if "trace" in line]
    assert {line["level"] for line in lines} <= {"info", "warning"}
    asked = [line for line in lines if line["message"] == "request"]
    assert {line["route"] for line in asked} <= {
        CHAT, "/v1/completions", "/v1/models", "/v1/models/{id}", "other",
    }  # fmt: skip
    assert {line["method"] for line in asked} <= {
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "other",
    }  # fmt: skip


def test_nothing_that_a_client_wrote_is_written_down(gateway: RecordingGateway, key: str) -> None:
    """A word in every place where a client can write one, through both ports."""
    word = "tl-quetzalcoatl"
    headers = [f"{name}: {value}".encode() for name, value in (
        ("User-Agent", word), (f"X-{word}", word), ("traceparent", word), ("tracestate", f"a={word}"),
        ("baggage", f"a={word}"), ("Cookie", word), ("X-Request-Id", word), ("X-Conversation-Id", word),
        ("Referer", f"http://{word}/"), ("X-Forwarded-For", word),
    )]  # fmt: skip
    bodies = [
        BODY | {"user": word}, BODY | {word: 1}, BODY | {"model": word}, BODY | {"stop": [word] * 5},
        BODY | {"messages": [{"role": word, "content": word, "name": word, word: word}]},
        BODY | {"messages": [{"role": "user", "content": word, "name": word}]},
        {"model": word, "prompt": word},
    ]  # fmt: skip
    for body in [json.dumps(one).encode() for one in bodies] + [word.encode(), b'{"a": %s}' % word.encode()]:
        exchange(gateway.address, request(body, key, headers=headers))
        exchange(gateway.address, request(body, word, headers=headers))
    side = gateway.operations.removeprefix("http://").rsplit(":", 1)
    for address in (gateway.address, (side[0], int(side[1]))):
        for line in (
            f"GET /{word} HTTP/1.1", f"GET /v1/models/{word} HTTP/1.1", f"GET /v1/models?key={word} HTTP/1.1",
            f"POST {CHAT}?{word} HTTP/1.1", f"POST {CHAT}/{word} HTTP/1.1", f"GET http://{word}/ HTTP/1.1",
            f"{word.upper()} {CHAT} HTTP/1.1", f"{word} {CHAT} HTTP/1.1", f"GET / {word}",
            f"CONNECT {word}:1 HTTP/1.1", f"GET /metrics?{word} HTTP/1.1", word,
            f"GET /{word}%ff%0a HTTP/1.1",
        ):  # fmt: skip
            for secret in (key, word):
                exchange(address, request(RAW, secret, line, headers))
        exchange(address, request(RAW, key, headers=[f"{word} : {word}".encode()]))
        exchange(address, request(word.encode(), key, headers=[b"Transfer-Encoding: chunked"], length=False))
    written = gateway.log.read_text() + httpx.get(f"{gateway.operations}/metrics").text
    written += "".join(
        path.read_text() for path in (gateway.populated.home / "logs").rglob("*") if path.is_file()
    )
    assert '"route": "/v1/models/{id}"' in written
    assert "quetzalcoatl" not in written.lower()


@pytest.mark.parametrize("name", ["team/mine", "team%2Fmine"])
def test_a_tenants_model_is_found_by_its_name(gateway: RecordingGateway, key: str, name: str) -> None:
    found = exchange(gateway.address, request(b"", key, f"GET /v1/models/{name} HTTP/1.1"))
    listed = exchange(gateway.address, request(b"", key, "GET /v1/models HTTP/1.1"))
    assert (found.status, [json.loads(found.body)]) == (200, json.loads(listed.body)["data"])
    assert json.loads(found.body)["id"] == "team/mine"
    for other in ("team/other", "team/nobody", "team%252Fmine", "../models", "%ff"):
        answer = exchange(gateway.address, request(b"", key, f"GET /v1/models/{other} HTTP/1.1"))
        assert refused(answer, 404)["code"] == "model_not_found"
    assert refused(exchange(gateway.address, request(b"", "", f"GET /v1/models/{name} HTTP/1.1")), 401)
    assert refused(exchange(gateway.address, request(b"", key, f"POST /v1/models/{name} HTTP/1.1")), 405)


def test_a_query_is_refused_by_name(gateway: RecordingGateway, key: str) -> None:
    assert "query string" in refused(post(gateway, BODY, f"{CHAT}?api-version=1"))["message"]
    assert ok(post(gateway, BODY, f"{CHAT}?")), "nothing follows the question mark"


def test_an_answer_without_a_length_has_what_the_context_leaves(gateway: RecordingGateway) -> None:
    """1,024 where they fit for certain, nothing where they might not: then the engine's context ends it."""
    without = {name: value for name, value in BODY.items() if name != "max_tokens"}
    assert ok(post(gateway, without))
    assert json.loads(gateway.asked()[-1]["body"])["max_tokens"] == 1024
    assert ok(post(gateway, without | {"messages": [{"role": "user", "content": "a" * 1500}]}))
    assert "max_tokens" not in json.loads(gateway.asked()[-1]["body"])


def test_metrics_count_what_was_refused(gateway: RecordingGateway) -> None:
    for reason in ("invalid_http", "invalid_json", "unsupported_parameter", "not_found", "timeout"):
        assert gateway.number("tuneline_gateway_rejections_total", reason=reason) > 0
    text = httpx.get(f"{gateway.operations}/metrics").text
    assert "xylophone" not in text
    assert len(text.splitlines()) < 400
    assert not math.isnan(gateway.number("tuneline_gateway_requests_under_way"))
    assert gateway.number("tuneline_gateway_requests_under_way") == 0
