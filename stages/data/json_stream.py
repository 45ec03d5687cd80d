"""Rows of a JSON document, one at a time: the document is never in memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from stages.data.json_values import Decoder
from stages.data.source_row import MAX_ROW_BYTES, SourceRow, SourceRows, Unreadable, as_source_row, shown
from stages.data.text import text
from stages.errors import InvalidInput

_CHUNK = 2**20
_SPACE = " \t\r\n"
_ROW_KEYS = ("data", "rows", "examples", "train")


def read_json(path: Path, name: str) -> SourceRows:
    """Rows of an array; of an object that maps ids to rows; or of the array under `data`, `rows`, … .

    Raises `InvalidInput` with the line when the document is malformed or holds something else.
    """
    before = 0
    for number, row in enumerate(_rows(path, name), 1):
        yield replace(row, number=number) if row.line == before else row
        before = row.line


def _rows(path: Path, name: str) -> SourceRows:
    with text(path) as stream:
        cursor = _Cursor(stream, name)
        opening = cursor.peek()
        if opening == "[":
            yield from _elements(cursor, name)
        elif opening == "{":
            yield from _members(cursor, name)
        elif opening:
            raise cursor.wrong("expected an array of rows or an object at the start of the document")
        if cursor.peek():
            raise cursor.wrong(
                "something follows the end of the document; one row a line belongs in a .jsonl"
            )


def _elements(cursor: _Cursor, name: str) -> Iterator[SourceRow]:
    cursor.take("[")
    if cursor.peek() == "]":
        cursor.take("]")
        return
    while True:
        cursor.peek()
        line = cursor.line
        yield as_source_row(name, line, cursor.value())
        if cursor.take(",]") == "]":
            return


def _members(cursor: _Cursor, name: str) -> Iterator[SourceRow]:
    cursor.take("{")
    if cursor.peek() == "}":
        cursor.take("}")
        return
    while True:
        cursor.peek()
        line = cursor.line
        key = cursor.value()
        cursor.take(":")
        opening = cursor.peek()
        if opening == "[" and key in _ROW_KEYS:
            yield from _elements(cursor, name)
        elif opening == "[":
            raise cursor.wrong(
                f"the array under {shown(key)} is not expected; rows stand in a top-level array, under one "
                f"of {', '.join(_ROW_KEYS)}, or as the values of an object"
            )
        else:
            value = cursor.value()
            # Scalars beside the rows (a version, a name) are the document's description.
            if isinstance(value, dict | Unreadable):
                yield as_source_row(name, line, value)
        if cursor.take(",}") == "}":
            return


class _Cursor:
    """A place in a JSON document, over a window that moves forward."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._decoder = Decoder()
        self._window = ""
        self._at = 0
        self._ended = False
        self._counted = 0
        self._lines = 1

    @property
    def line(self) -> int:
        self._lines += self._window.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._lines

    def wrong(self, what: str) -> InvalidInput:
        return InvalidInput(f"{self._name}: line {self.line}: {what}")

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._window) and self._window[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._read_more():
                return ""

    def take(self, allowed: str) -> str:
        character = self.peek()
        if not character or character not in allowed:
            raise self.wrong(
                f"malformed JSON: expected {' or '.join(allowed)}, found {character or 'the end'}"
            )
        self._at += 1
        return character

    def value(self) -> Any:
        """Decode the value at the cursor, reading on until it is complete."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.first(self._window, self._at)
            except json.JSONDecodeError as error:
                into = error.pos - self._at  # reading on moves the window
                if not self._cut_off(error) or not self._read_more():
                    self._at = min(self._at + into, len(self._window))
                    raise self.wrong(f"malformed JSON: {error.msg.removesuffix(' starting at')}") from error
            except RecursionError as error:
                raise self.wrong("the row is nested too deeply") from error
            else:
                # A number at the window's end may go on in the next one.
                if end < len(self._window) or not self._read_more():
                    self._at = end
                    return value

    def _cut_off(self, error: json.JSONDecodeError) -> bool:
        """Whether the window's end, and not the document, may be what is wrong."""
        longest_literal = 16  # "-Infinity", an escaped surrogate pair
        near_end = error.pos >= len(self._window.rstrip(_SPACE)) - longest_literal
        return near_end or error.msg.startswith("Unterminated string")

    def _read_more(self) -> bool:
        if self._ended:
            return False
        _ = self.line
        kept = self._window[self._at :]
        if len(kept) > MAX_ROW_BYTES:
            raise self.wrong(f"one row is longer than {MAX_ROW_BYTES >> 20} MiB; is the file damaged?")
        # At least doubling, so that a long row is decoded a logarithmic number of times.
        more = self._stream.read(max(_CHUNK, len(kept)))
        self._ended = not more
        self._window, self._at, self._counted = kept + more, 0, 0
        return bool(more)
