"""The JSON object in a request's body, read without a second meaning."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from serving.openai_api.errors import ApiError


def parse(body: bytes, deepest: int | None = None) -> dict[str, Any]:
    """A body's JSON object, no key of which stands twice, nested no deeper than `deepest`.

    Raises `ApiError`.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ApiError("a key stands twice in one object of the request; expected each once")
        return found

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text[:20]} is no JSON number, or too large")

    def finite(text: str) -> float:
        return found if math.isfinite(found := float(text)) else no_number(text)

    try:
        text = body.decode("utf-8")
        given = json.loads(text, object_pairs_hook=once, parse_constant=no_number, parse_float=finite)
        if "\\u" in text:  # half a surrogate pair is legal in JSON's escapes, but no text
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
        said = "a query string is not accepted here: leave out what follows the question mark of the address"
        raise ApiError(said, None, code="unsupported_parameter")


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)
