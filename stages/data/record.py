"""What the readers hand over: one row with the place where it stands, or why it could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_ROW_BYTES = 64 * 2**20
"""A single row above this is taken for a damaged file: reading stays within bounded memory."""


class RowError(Exception):
    """One row cannot be used; `code` groups the rows rejected for one cause."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Record:
    """A row of `file`; `line` counts from 1 (the row's number where a format has no lines)."""

    file: str
    line: int
    row: dict[str, Any] | None
    error: str | None = None


Records = Iterator[Record]


def as_record(file: str, line: int, value: Any) -> Record:
    """A record of a decoded JSON value, which has to be an object."""
    if isinstance(value, dict):
        return Record(file, line, value)
    return Record(
        file, line, None, f"the row is a {type(value).__name__}, expected an object with named fields"
    )
