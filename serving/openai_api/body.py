"""The JSON object in a request's body, read without a second meaning."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterable
from typing import Any, NoReturn

from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject


async def collect(parts: AsyncIterable[bytes], most: int) -> bytes:
    """A body, as it comes. Raises `ApiError` where it has more than `most` bytes."""
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > most:
            raise ApiError(f"the body is larger than {most} bytes", None, 413, "too_large")
    return bytes(body)


def parse(body: bytes, deepest: int | None = None) -> JsonObject:
    """A body's JSON object, without duplicate keys, nested no deeper than `deepest`.

    Raises `ApiError`.
    """

    def once(pairs: list[tuple[str, Any]]) -> JsonObject:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ApiError("duplicate key in an object of the request; expected each once")
        return value

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text[:20]} is not a JSON number, or is too large")

    def finite(text: str) -> float:
        return value if math.isfinite(value := float(text)) else no_number(text)

    try:
        text = body.decode("utf-8")
        given = json.loads(text, object_pairs_hook=once, parse_constant=no_number, parse_float=finite)
        if "\\u" in text:  # half a surrogate pair is legal in JSON's escapes, but not text
            json.dumps(given, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not valid JSON text ({error})", code="invalid_json") from None
    if not isinstance(given, dict):
        raise ApiError(f"expected a JSON object, found {type(given).__name__}", code="invalid_json")
    if deepest is not None and _deeper(given, deepest):
        raise ApiError(f"the body is nested deeper than {deepest} levels", code="invalid_json")
    return given


def require_no_query(query: str) -> None:
    """Nothing of a request stands in its address. Raises `ApiError`."""
    if query:
        message = "a query string is not accepted here: leave out the question mark and what follows it"
        raise ApiError(message, None, code="unsupported_parameter")


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner)
