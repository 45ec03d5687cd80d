"""What differs between two texts, word by word, as markup."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from markupsafe import Markup

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
MOST_WORDS = 2000
"""Longer texts are shown as they are: the comparison grows with the square of their length."""

LEAST_ALIKE = 0.4
"""Below this share of common words the marks would be all there is to see."""


def marked(before: Markup, after: Markup) -> Markup:
    """`after` with what is new in `ins` and what is gone in `del`. Both are given and returned escaped."""
    old, new = _WORDS.findall(before.unescape()), _WORDS.findall(after.unescape())
    if max(len(old), len(new)) > MOST_WORDS:
        return after
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < LEAST_ALIKE:
        return after
    parts = []
    for action, i, j, k, m in matcher.get_opcodes():
        if action in ("delete", "replace"):
            parts.append(Markup("<del>{}</del>").format("".join(old[i:j])))
        if action in ("insert", "replace"):
            parts.append(Markup("<ins>{}</ins>").format("".join(new[k:m])))
        if action == "equal":
            parts.append(Markup.escape("".join(new[k:m])))
    return Markup("").join(parts)
