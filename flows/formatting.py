"""How times, sizes, ids and foreign text are written for people: the same in the terminal and in HTML."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # takes long to import, and few commands render a document
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"

_COMMAND = re.compile(
    r"(?:(?<=`)|(?<=: )|(?<=; ))(?:(?P<own>tuneline)(?= [a-z])|(?P<pip>pip)(?= install )|python(?= -m ))"
)


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


def from_log10(log10: float) -> str:
    """`10**log10` with three digits; of one too large or too small for a float, its power of ten."""
    return f"{10**log10:.3g}" if abs(log10) < 300 else f"1e{math.floor(log10)}"


def short(artifact_id: str | None) -> str:
    """The first 12 digits of an artifact's id; `–` where there is none."""
    return artifact_id[:12] if artifact_id else "–"


def template_environment(folder: Path = TEMPLATES, **options: Any) -> Environment:
    """Jinja's for the templates in a folder: what they name has to be there, and texts come out `plain`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
        **options,
    )


def plain(text: str) -> str:
    """`text` without the control characters that could drive a terminal or break XML.

    Answers come from a model and rows from a stranger's file: an escape sequence in one of them must
    not reach the reader's terminal. Line feeds and tabs stay; surrogates and the like become U+FFFD.
    """
    if text.isprintable():  # nothing of the kind is, and this is quick
        return text
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


def command_name() -> str:
    """How this command can be typed again where it was typed: `tuneline`, or `.venv/bin/tuneline` where the
    shell finds no other or another one under that name.
    """
    typed = sys.argv[0]
    if Path(typed).name != "tuneline" or os.sep not in typed:
        return "tuneline"
    path = shutil.which("tuneline")
    if path is not None and os.path.realpath(path) == os.path.realpath(typed):
        return "tuneline"
    return shlex.quote(typed)


def as_typed(text: str) -> str:
    """`text` with the commands in it, in backticks or after a colon, as they can be typed where this runs.

    `pip` and `python` are those of this environment, with their path where the shell finds others or none.
    """
    return _COMMAND.sub(_as_typed, text)


def _as_typed(match: re.Match[str]) -> str:
    if match["own"]:
        return command_name()
    shells = shutil.which(match[0])
    if shells is not None and Path(shells).parent == Path(sys.executable).parent:
        return match[0]
    return f"{shlex.quote(sys.executable)} -m pip" if match["pip"] else shlex.quote(sys.executable)


def markdown_cell(text: str) -> str:
    """Text that Markdown shows as it is, in one line, such as a table's cell."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in plain(text))
    return " ".join(escaped.split())


VERDICTS = {
    "pass": "Gate passed",
    "fail": "Gate failed",
    "insufficient": "Not enough evidence",
    "invalid": "Evidence invalid",
}
