"""The text of a message, from what the data have in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from stages.data.fields import REFUSED_IN_ROW, account
from stages.data.source_row import RowError, kind, shown
from stages.formats.messages import DOCUMENT

_OPENS, _CLOSES = "<think>", "</think>"


def text_of(value: Any, what: str) -> str:
    """A text; or the texts of a list of parts, as multi-part chats hold them. `what` names it in messages.

    Raises `RowError` for anything else, for a part that is no text, and for half a character.
    """
    if isinstance(value, list) and all(isinstance(part, Mapping) and "type" in part for part in value):
        if other := [part["type"] for part in value if part["type"] != "text"]:
            raise RowError(
                "unsupported_field", f"{what} has a part of type {shown(other[0])}: only text is trained"
            )
        value = "".join(text_of(part.get("text"), what) for part in value)
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{what} is {kind(value)}, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            "malformed", f"{what}: half a surrogate pair stands at character {error.start + 1}"
        ) from error
    return value


def document_of(row: Mapping[str, Any], unused: Counter[str]) -> list[dict[str, Any]]:
    """The row's `text` as a document; other fields are counted in `unused`. Raises `RowError`."""
    account(row, ("text",), REFUSED_IN_ROW, "", "the row", unused)
    text = text_of(row.get("text"), "text")
    if not text.strip():
        raise RowError("empty_message", "text is empty")
    return [{"role": DOCUMENT, "content": text}]


def require_answer(text: str, number: int, calls: bool) -> None:
    """Raise `RowError` where an answer begins with a thought (`<think>`) that is all there is of it.

    A thought that is not closed would teach a model to think on for ever; one that no answer and none of its
    `calls` follow, to answer nothing.
    """
    if not text.lstrip().startswith(_OPENS):
        return
    _, closed, answer = text.partition(_CLOSES)
    if not closed:
        raise RowError("malformed", f"message {number} opens {_OPENS} and does not close it ({_CLOSES})")
    if not (answer.strip() or calls):
        raise RowError("missing_answer", f"message {number} has no answer after its thought")
