"""Tricks with HTTP: each gets a reason, and the engine hears nothing of it."""

from __future__ import annotations

import json
import socket

import pytest

from tests.serving.gateway.hostile.sending import BODY, RAW, ok, post, refused
from tests.serving.gateway.hostile.tricks import cases
from tests.serving.gateway.live_gateway import SLOWEST
from tests.serving.gateway.raw_http import CHAT, RecordingGateway, exchange, parsed, request, rest


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
