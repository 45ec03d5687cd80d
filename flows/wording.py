"""How times, sizes, ids and foreign text are written for people: the same in the terminal and in HTML."""

from __future__ import annotations

import math
import unicodedata


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: int | None) -> str:
    """Bytes in decimal units with three digits (`98.2 MB`); `–` where nothing is known."""
    if count is None:
        return "–"
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    if unit == "B":
        return f"{count} B"
    return f"{value:.{max(0, 2 - int(math.log10(value)))}f} {unit}"


def short(artifact_id: str | None) -> str:
    """The first 12 digits of an artifact's id; `–` where there is none."""
    return artifact_id[:12] if artifact_id else "–"


def plain(text: str) -> str:
    """`text` without the control characters that could drive a terminal or break XML.

    Answers come from a model and rows from a stranger's file: an escape sequence in one of them must
    not reach the reader's terminal. Line feeds and tabs stay; surrogates and the like become U+FFFD.
    """
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\n\t":
            kept.append(character)
        elif category == "Cs" or ord(character) & 0xFFFE == 0xFFFE:
            kept.append("\ufffd")
        elif category != "Cc" and character not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
            kept.append(character)
    return "".join(kept)
