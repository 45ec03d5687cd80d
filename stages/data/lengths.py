"""Whether a text is far too long, found out without tokenizing all of it."""

from __future__ import annotations

from stages.backends.chat import Tokenizer

CHARACTERS = 8
"""A text with fewer characters per allowed token than this is tokenized whole: ordinary text has 2 to 5."""
_CUT = 128  # tokens that cutting a text may make more of it than there would be: in its last word only


def tokens_if_above(tokenizer: Tokenizer, text: str, limit: int) -> int | None:
    """An estimate of the tokens of a text that has more than `limit`; None where it may have fewer.

    A tokenizer works from left to right, so a text has at least as many tokens as its beginning has, but
    for a few at the cut. The beginning is doubled until it has too many: a row of 15 MB costs as much as one
    of a few thousand characters, with any tokenizer, also one that makes one token of a whole line.
    """
    size = limit * CHARACTERS
    while size < len(text):
        tokens = len(tokenizer(text[:size], add_special_tokens=False, verbose=False)["input_ids"])
        if tokens - _CUT > limit:
            return round(tokens * len(text) / size)
        size *= 2
    return None
