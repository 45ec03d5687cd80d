"""What is taken out of a text before it is kept: each rule puts its name in the place of what it finds.

Patterns are simple on purpose: each needs time in proportion to the text, whatever stands in it. They find
what has a form; a person's name has none, and stays. Spaces, hyphens and signs count in all forms that web
pages and input methods write; characters that nobody sees do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_SPACE = " \t\u00a0\u2000-\u200a\u202f\u3000"
_HYPHEN = "\u2010-\u2015\u2212\uff0d\\-"
_GAP = f"[{_SPACE}{_HYPHEN}.]"
_NAME = r"[\w.+-]"
_AT, _DOT, _LABEL = "[@\ufe6b\uff20]", "[.\uff0e]", r"[\w-]{1,63}"

RULES: Mapping[str, re.Pattern[str]] = {
    "url": re.compile(r"\b(?:https?://|www\.)[^\s<>\"']+", re.IGNORECASE),
    "email": re.compile(rf"(?<!{_NAME}){_NAME}++{_AT}{_LABEL}(?:{_DOT}{_LABEL}){{1,8}}"),
    "iban": re.compile(
        rf"\b[A-Z]{{2}}\d{{2}}(?:[{_SPACE}]?[A-Z0-9]{{4}}){{2,7}}(?:[{_SPACE}]?[A-Z0-9]{{1,3}})?\b"
    ),
    "card": re.compile(
        rf"(?<!\d)(?:(?:\d{{4}}{_GAP}?){{3}}\d{{1,7}}|\d{{4}}{_GAP}?\d{{6}}{_GAP}?\d{{5}})(?!\d)"
    ),
    "ip": re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
    "phone": re.compile(
        rf"(?<![\w+])(?:(?:[+\uff0b]|\(?0)\d[\d(){_SPACE}/.{_HYPHEN}]{{5,18}}\d"
        rf"|\(?\d{{3}}\)?{_GAP}?\d{{3}}{_GAP}\d{{4}})(?!\d)"
    ),
    "number": re.compile(r"(?<!\d)\d{6,}"),
}
"""Rule → what it finds, in the order in which they are applied; `number` is any of six digits or more."""

_INVISIBLE = re.compile("(?<=[!-~])[\u00ad\u200b-\u200f\u2060\ufeff]+(?=[!-~])")
"""Characters without a width where no script needs them, between two of ASCII's."""


def redacted(text: str, rules: Iterable[str]) -> str:
    """`text` with `[RULE]` where a rule found something."""
    wanted = set(rules)
    if wanted:
        text = _INVISIBLE.sub("", text)
    for name, pattern in RULES.items():
        if name in wanted:
            text = pattern.sub(f"[{name}]", text)
    return text
