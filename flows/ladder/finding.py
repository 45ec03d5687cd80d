"""What a check says of a rung that it finds broken."""

from __future__ import annotations

from typing import NamedTuple


class Said(NamedTuple):
    """`words`: what was measured; `cause`: what it comes from, as far as that was looked at; `next`: what to
    do or to look at."""

    words: str
    cause: str
    next: str = ""
