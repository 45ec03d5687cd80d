"""Requests that are no HTTP, or that two programs could read in two ways: bytes → the status they get."""

from __future__ import annotations

import gzip
from typing import Any

from tests.serving.gateway.hostile.sending import RAW
from tests.serving.gateway.raw_http import CHAT, request


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
