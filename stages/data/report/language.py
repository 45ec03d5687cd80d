"""Which language a text is in, by py3langid: letters and their neighbours, no network."""

from __future__ import annotations

from collections.abc import Callable

UNTOLD = "und"
"""ISO 639-2 for a text whose language cannot be told."""
READ = 2000
"""Characters of a text that are looked at."""
SURE = 0.5
"""Probability below which the language is not told: of short texts, numbers, code."""


def identifier() -> Callable[[str], str]:
    """A function from a text to its language in ISO 639-1, or `UNTOLD`."""
    from py3langid import langid  # half a second and 100 MB

    known = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True, min_confidence=SURE)

    def language(text: str) -> str:
        code = str(known.classify(text[:READ])[0])
        return UNTOLD if code == "zxx" else code

    return language
