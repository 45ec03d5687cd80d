"""What is read of a client's request: its key's header, and its body."""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web

from serving.gateway.config import Bounds
from serving.openai_api.body import collect
from serving.openai_api.errors import ApiError


def authorization(http: web.BaseRequest) -> str:
    """The header; empty where there is none. Raises `ApiError` where there are several."""
    given = http.headers.getall("authorization", [])
    if len(given) > 1:
        raise ApiError("expected one Authorization header", None, 400, "invalid_header")
    return given[0] if given else ""


async def body_of(http: web.BaseRequest, bounds: Bounds) -> bytes:
    """Its bytes. Raises `ApiError` where they are too many, too slow, or encoded."""
    if http.headers.get("content-encoding", "identity").lower() != "identity":
        message = "the body is encoded; expected plain JSON, with no Content-Encoding"
        raise ApiError(message, None, 415, "unsupported_encoding")
    await _go_on(http)
    try:
        async with asyncio.timeout(bounds.body_seconds):
            return await collect(http.content.iter_any(), bounds.body_bytes)
    except TimeoutError:
        message = f"the body did not come within {bounds.body_seconds:g} s"
        raise ApiError(message, None, 408, "timeout") from None
    except web.RequestPayloadError as error:
        raise ApiError(f"the body cannot be read: {error}", None, 400, "invalid_body") from None


async def _go_on(http: web.BaseRequest) -> None:
    """Answer `Expect`, which clients send before a large body."""
    expected = http.headers.get("expect")
    if expected is not None and expected.lower() != "100-continue":
        raise ApiError("Expect: only 100-continue is supported", None, 417, "invalid_header")
    if expected is not None and http.version >= HttpVersion11:
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
