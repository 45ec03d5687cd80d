"""What the readers hand over: one row with the place where it stands, or why it could not be read."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired, TypedDict

MAX_ROW_BYTES = 64 * 2**20
"""A single row above this is taken for a damaged file: reading stays within bounded memory."""


class RowError(Exception):
    """One row cannot be used; `code` groups the rows rejected for one cause."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Reject(TypedDict):
    """A line of `rejects.jsonl`: a row that was left out, and why."""

    file: str
    line: int
    row: NotRequired[int]
    code: str
    reason: str


class Kept(NamedTuple):
    """Of a row beside its messages: right answers beside its own, and column → value that slices it."""

    references: tuple[str, ...] = ()
    slices: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of `file`; `line` counts from 1 (the row's number where a format has no lines).

    `number`: of the row in its document, where another one begins in the same line; 0 elsewhere.
    `unread` names the fields that the file has and that were not even read, since no format uses them.
    """

    file: str
    line: int
    row: dict[str, Any] | None
    error: str | None = None
    unread: tuple[str, ...] = ()
    kept: Kept | None = None
    number: int = 0

    @property
    def place(self) -> str:
        """Where the row stands, for messages."""
        return f"{self.file} line {self.line}" + (f", row {self.number}" if self.number else "")


SourceRows = Iterator[SourceRow]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands where a row's value would, when only its reader knows what is wrong with it."""

    reason: str


def as_source_row(file: str, line: int, value: Any) -> SourceRow:
    """A row of a decoded JSON value, which has to be an object."""
    if isinstance(value, dict):
        return SourceRow(file, line, value)
    if isinstance(value, Unreadable):
        return SourceRow(file, line, None, value.reason)
    return SourceRow(file, line, None, f"the row is {kind(value)}, expected an object with named fields")


def kind(value: Any) -> str:
    """What a value of the data is, in the words of JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    words = {
        str: "a text",
        int: "a number",
        float: "a number",
        list: "a list",
        tuple: "a list",
        dict: "an object",
    }
    return "null" if value is None else words.get(type(value), f"a {type(value).__name__}")


def shown(value: Any) -> str:
    """A value of the data for a message: short, on one line, and printable whatever it is."""
    return reprlib.repr(value)


def named(field: object) -> str:
    """A field's name for a message or a list: as it is where it is plain, otherwise like `shown`."""
    text = str(field)
    return text if text.isprintable() and 0 < len(text) <= 60 else shown(text)
