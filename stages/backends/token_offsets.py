"""Tokens, and the characters of a rendered chat that each of them stands for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import NotRequired, TypedDict

from stages.backends.tokenizer import Tokenizer
from stages.errors import InvalidInput

Span = tuple[int, int]
"""Characters [start, end) of a rendered chat."""


class Encoding(TypedDict):
    """What a tokenizer made of a text; it holds more than these."""

    input_ids: list[int]
    offset_mapping: NotRequired[list[Span]]


def tokenize(tokenizer: Tokenizer, text: str, **options: bool) -> Encoding:
    """`input_ids`, and with `return_offsets_mapping` the `offset_mapping`, of a text as it stands."""
    if not tokenizer.is_fast:
        raise InvalidInput(
            f"{type(tokenizer).__name__} gives no character offsets; convert the tokenizer to tokenizer.json"
        )
    # verbose=False: the length is judged by prepare, against the recipe, not by the tokenizer's warning
    encoding: Encoding = tokenizer(text, add_special_tokens=False, verbose=False, **options)
    return encoding


def tokenize_apart(tokenizer: Tokenizer, text: str, edges: Sequence[int]) -> tuple[list[int], list[Span]]:
    """Ids and offsets of a chat. No token reaches from a prompt into its answer (they part at `edges`), since
    an engine tokenizes the prompt alone."""
    encoding = tokenize(tokenizer, text, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), [(int(a), int(b)) for a, b in encoding["offset_mapping"]]
    cuts = [edge for edge in edges if crossed(tokenizer, encoding, edge, text)]
    if not cuts:
        return ids, offsets
    ids, offsets = [], []
    for start, end in pairwise([0, *cuts, len(text)]):
        piece = tokenize(tokenizer, text[start:end], return_offsets_mapping=True)
        ids += piece["input_ids"]
        offsets += [(start + a, start + b) for a, b in piece["offset_mapping"]]
    return ids, offsets


def crossed(tokenizer: Tokenizer, encoding: Encoding, edge: int, text: str) -> bool:
    """Whether text before `edge` is tokenized otherwise when nothing follows it."""
    if not 0 < edge < len(text):
        return False
    offsets: Sequence[Span] = encoding["offset_mapping"]
    after = bisect_left(offsets, edge, key=lambda offset: offset[0])
    while after < len(offsets) and tuple(offsets[after]) == (edge, edge):
        after += 1  # spaces only, which some tokenizers trim to where they end
    end = offsets[after - 1][1] if after else 0
    if end > edge or (end < edge and text[end:edge].isspace()):
        return True  # a token lies on both sides; one whose space was trimmed from its offset shows as a gap
    tail = text[max(edge - 32, 0) : edge]
    if len(tail) - len(tail.rstrip()) < 2:
        return False
    # a run of spaces may be cut by what follows it
    alone: list[int] = tokenize(tokenizer, tail)["input_ids"]
    return alone[-1] != encoding["input_ids"][after - 1]
