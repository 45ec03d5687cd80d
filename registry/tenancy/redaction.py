"""What is taken out of a text before it is kept: each rule puts its name in the place of what it finds.

Patterns are simple on purpose: each needs time in proportion to the text, whatever stands in it. They find
what has a form; a person's name has none, and stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

RULES: Mapping[str, re.Pattern[str]] = {
    "url": re.compile(r"\bhttps?://[^\s<>\"']{1,2000}", re.IGNORECASE),
    "email": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "card": re.compile(r"(?<!\d)(?:\d{4}[ -]?){3}\d{1,7}(?!\d)"),
    "ip": re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
    "phone": re.compile(r"(?<![\w+])(?:\+|\(?0)\d[\d ()/.-]{5,18}\d(?!\d)"),
    "number": re.compile(r"(?<!\d)\d{6,40}(?!\d)"),
}
"""Rule → what it finds, in the order in which they are applied; `number` is any of six digits or more."""


def redacted(text: str, rules: Iterable[str]) -> str:
    """`text` with `[RULE]` where a rule found something."""
    wanted = set(rules)
    for name, pattern in RULES.items():
        if name in wanted:
            text = pattern.sub(f"[{name}]", text)
    return text
