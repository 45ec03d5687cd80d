"""The continuations of one context, read as few rows and scored one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Row = tuple[int, ...]
Score = tuple[float, bool]
"""Sum of log-probabilities, and whether each token was the likeliest."""

SHARED = 8
"""Tokens that the rows of a batch must begin with together before it pays to read them once."""


def common_beginning(rows: Sequence[Row], already_read: Row) -> Row:
    """What all rows begin with; what the engine has read already, where that will do."""
    length = len(already_read)
    if length and all(len(row) > length and row[:length] == already_read for row in rows):
        return already_read
    first, last = min(rows), max(rows)
    limit = min(map(len, rows)) - 1 if len(rows) > 1 else 0
    length = next((i for i in range(limit) if first[i] != last[i]), limit)
    return first[:length] if length >= SHARED else ()


class Tree:
    """The continuations of one context as the fewest rows that contain the beginnings of all of them."""

    def __init__(self, continuations: Sequence[Row]) -> None:
        self.continuations = continuations
        beginnings = sorted({row[:-1] for row in continuations} - {()})
        followers = [*beginnings, ()][1:]
        self.rows = [
            row for row, after in zip(beginnings, followers, strict=True) if after[: len(row)] != row
        ]
        self.tokens = sum(map(len, self.rows))

    def scores(self, first: torch.Tensor, after: Sequence[torch.Tensor]) -> list[Score]:
        """`first` [1, vocabulary]: logits after the context; `after[i]`: after each token of row i."""
        logits = torch.cat([first, *after])
        normalizer = torch.logsumexp(logits, dim=-1).double()
        best = logits.argmax(dim=-1).tolist()
        scores = []
        for continuation in self.continuations:
            places = self._places(continuation[:-1])
            chosen = logits[places, list(continuation)].double()
            greedy = [best[place] for place in places] == list(continuation)
            scores.append((float((chosen - normalizer[places]).sum()), greedy))
        return scores

    def _places(self, beginning: Row) -> list[int]:
        start = 1
        for row in self.rows:
            if row[: len(beginning)] == beginning:
                return [0, *range(start, start + len(beginning))]
            start += len(row)
        return [0]
