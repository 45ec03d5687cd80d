"""The rows of a feed, as `prepare` gets them: a file of JSON lines in its own folder, a line for each row."""

from __future__ import annotations

import re
from pathlib import Path

FEED = "feed"
_NAMED = re.compile(r"feed:([a-z0-9][a-z0-9._-]{0,63})(?:@([1-9][0-9]{0,9})(?:-[0-9]+)?)?")


def feed_of(source: str) -> tuple[str, int | None] | None:
    """Name and watermark of the feed that a source names; None for another source, or no such name."""
    named = _NAMED.fullmatch(source)
    return None if named is None else (named[1], int(named[2]) if named[2] else None)


def file_in(folder: Path) -> Path:
    """Where the rows lie for `prepare`, which takes the file away."""
    return folder / ".feed.jsonl"
