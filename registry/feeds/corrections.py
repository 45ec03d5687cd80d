"""What a corrected answer may not hold: tokens of the model's template; HTML, where nobody spoke of any."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from registry.errors import InvalidFeed

ControlTokensOf = Callable[[str], Collection[str]]
"""Artifact → texts that its model reads as a part of its template, such as the end of a turn."""

LONGEST_SHOWN = 40
"""Characters of what is refused that the message repeats."""
_NAMES = """
a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body
br button canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl
dt em embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header
hgroup hr html i iframe img input ins kbd label legend li link main map mark marquee math menu meta meter
nav nobr noscript object ol optgroup option output p param picture plaintext pre progress q rp rt ruby s
samp script search section select slot small source span strike strong style sub summary sup svg table
tbody td template textarea tfoot th thead time title tr track tt u ul var video wbr xmp
"""
"""Elements of HTML, also those of old. Other names in angle brackets are of formats and of languages."""
_ELEMENTS = frozenset(_NAMES.split())
_TAG = re.compile(r"<!--|<!doctype\b|</?([a-z][a-z0-9]*)(?=[\s/>])[^<>]*>", re.IGNORECASE)
_BACKQUOTES = re.compile("`+")


def check(correction: str, said: Sequence[str], control: Collection[str]) -> None:
    """Raises InvalidFeed. `said`: the question's messages and the answer."""
    if token := held(control, correction):
        raise InvalidFeed(f"correction: it holds {token!r}, which the model reads as a part of its template")
    if (html := tag(correction)) and not any(map(tag, said)):
        shown = html if len(html) <= LONGEST_SHOWN else f"{html[:LONGEST_SHOWN]}…"
        raise InvalidFeed(
            f"correction: it holds the HTML {shown!r}, and what was said has none; write plain text, or HTML "
            "as Markdown's code, between backquotes"
        )


def held(control: Collection[str], *texts: str) -> str | None:
    """The first of the control tokens that stands in one of the texts."""
    return next((token for token in sorted(control) if any(token in text for text in texts)), None)


def tag(text: str) -> str | None:
    """The first tag or comment of HTML in `text` outside of Markdown's code."""
    for found in _TAG.finditer(_without_code(text)):
        if found[1] is None or found[1].lower() in _ELEMENTS:
            return found[0]
    return None


def _without_code(text: str) -> str:
    """Code stands between two runs of as many backquotes."""
    runs = [found.span() for found in _BACKQUOTES.finditer(text)]
    last = {end - start: start for start, end in runs}
    kept, opened, since = [], 0, 0
    for start, end in runs:
        if opened == end - start:
            opened, since = 0, end
        elif not opened and last[end - start] > start:
            kept.append(text[since:start])
            opened = end - start
    return " ".join([*kept, text[since:]])
