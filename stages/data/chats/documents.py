"""A document as pieces that fit into a sequence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from stages.backends.chat import Tokenizer, encode
from stages.formats.messages import DOCUMENT, PART

_LOOKED_AT = 8
"""Characters of a document per token of a piece that are tokenized at once: ordinary text has 2 to 5."""
_SPACE = re.compile(r"\s")


def pieces(tokenizer: Tokenizer, text: str, max_length: int) -> Iterator[dict[str, Any]]:
    """The document as messages of at most `max_length` tokens each, in its order; nothing of it is left out.

    It is cut before white space where there is any, so that a piece is tokenized as the whole is. Only the
    last piece ends the text. Memory and time grow with a piece, and with the document only linearly.
    """
    start = 0
    while start < len(text):
        end = _end(tokenizer, text, start, max_length)
        role = DOCUMENT if end == len(text) else PART
        if text[start:end].strip():
            yield {"role": role, "content": text[start:end]}
        start = end


def _end(tokenizer: Tokenizer, text: str, start: int, most: int) -> int:
    """Where the piece ends that begins at `start`."""
    whole, size = {"role": DOCUMENT, "content": ""}, _LOOKED_AT * most
    room = most - len(encode(tokenizer, [whole]))
    while True:
        window = text[start : start + size]
        found = tokenizer(window, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = found["offset_mapping"]
        if len(offsets) > room or start + size >= len(text):
            break
        size *= 2
    while room > 0:
        if len(offsets) <= room:
            end = len(window)
        else:
            end = _before_space(window, int(offsets[room][0])) or max(1, int(offsets[room][0]))
        if len(encode(tokenizer, [{**whole, "content": window[:end]}])) <= most:
            return start + end
        room = min(room, len(offsets)) - 1  # a piece by itself may have a token more
    return start + 1


def _before_space(window: str, end: int) -> int:
    """The last place up to `end`, but the first, at which white space begins; 0 where there is none."""
    while end > 0 and not _SPACE.match(window, end):
        end -= 1
    while end > 0 and window[end - 1].isspace():
        end -= 1
    return end
