"""JSON values as rows need them: nothing in them is lost, and no odd value ends the reading of a file."""

from __future__ import annotations

import json
from typing import Any

from registry.artifacts import JsonObject
from stages.data.source_row import RowError, Unreadable, named

_DIGITS = 300
"""Python refuses to read integers above 4,300 digits; from here on they are floats, as in other readers."""


class Decoder:
    """Decodes JSON; an object that names a key twice comes as `Unreadable`, for one of them would be lost."""

    def __init__(self) -> None:
        self._json = json.JSONDecoder(object_pairs_hook=self._object, parse_int=_integer)
        self._twice: str | None = None

    def first(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins at `at`, and where it ends. Raises JSONDecodeError, RecursionError."""
        self._twice = None
        value, end = self._json.raw_decode(text, at)
        return self._checked(value), end

    def whole(self, text: str) -> Any:
        """The one value that `text` is. Raises JSONDecodeError, RecursionError."""
        self._twice = None
        return self._checked(self._json.decode(text))

    def _checked(self, value: Any) -> Any:
        if self._twice is None:
            return value
        return Unreadable(f"the key {named(self._twice)} is there twice in one object")

    def _object(self, pairs: list[tuple[str, Any]]) -> JsonObject:
        row = dict(pairs)
        if len(row) < len(pairs):
            keys: set[str] = set()
            self._twice = next(key for key, _ in pairs if key in keys or keys.add(key))  # type: ignore[func-returns-value]
        return row


def decoded(value: Any, what: str) -> Any:
    """The value of a JSON text; anything else as it is. Raises `RowError`, which names `what` it is."""
    if not isinstance(value, str):
        return value
    try:
        read = Decoder().whole(value)
    except (ValueError, RecursionError) as error:
        raise RowError(
            "malformed", f"{what}: not valid JSON ({str(error) or 'nested too deeply'})"
        ) from error
    if isinstance(read, Unreadable):
        raise RowError("malformed", f"{what}: {read.reason}")
    return read


def json_text(value: Any, what: str) -> str:
    """The JSON of a row's value. Raises `RowError` where it has none: infinity, dates, half a character."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise RowError("malformed", f"{what}: {error}") from error
    return text


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)
