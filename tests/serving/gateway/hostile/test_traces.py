"""Afterwards: what ill-meaning clients sent stays nowhere, and is counted."""

from __future__ import annotations

import json
import math
import socket

import httpx
import psutil

from tests.serving.gateway.hostile.sending import BODY, RAW, post, refused
from tests.serving.gateway.hostile.tricks import cases
from tests.serving.gateway.live_gateway import SLOWEST
from tests.serving.gateway.raw_http import CHAT, RecordingGateway, exchange, parsed, request


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
        CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models", "/v1/models/{id}", "other",
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


def test_metrics_count_what_was_refused(gateway: RecordingGateway, key: str) -> None:
    refused(exchange(gateway.address, b"\0 garbage\r\n\r\n"))
    refused(post(gateway, b""))
    refused(post(gateway, BODY | {"priority": 1}))
    refused(post(gateway, BODY, "/"), 404)
    with socket.create_connection(gateway.address, timeout=SLOWEST) as client:
        client.sendall(request(RAW, key)[: -len(RAW)])
        refused(parsed(client.recv(1 << 16)), 408)
    for reason in ("invalid_http", "invalid_json", "unsupported_parameter", "not_found", "timeout"):
        assert gateway.number("tuneline_gateway_rejections_total", reason=reason) > 0
    text = httpx.get(f"{gateway.operations}/metrics").text
    assert "xylophone" not in text
    assert len(text.splitlines()) < 400
    assert not math.isnan(gateway.number("tuneline_gateway_requests_under_way"))
    assert gateway.number("tuneline_gateway_requests_under_way") == 0
