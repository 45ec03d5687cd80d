"""Clients that send slowly, never end, never read, or are too many: everything they held is free again."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest

from tests.seconds import seconds
from tests.serving.gateway.hostile.sending import BODY, CONNECTIONS, RAW, SECONDS, ok, refused
from tests.serving.gateway.live_gateway import SLOWEST, until
from tests.serving.gateway.raw_http import RecordingGateway, exchange, parsed, request, rest
from tests.serving.gateway.recording_engine import FLOOD, LENGTHY


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
