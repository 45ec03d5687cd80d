"""The continuations of one context, read as few rows and scored one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Row = tuple[int, ...]
Score = tuple[float, bool]
"""Sum of log-probabilities, and whether each token was the likeliest."""


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
        found = []
        for continuation in self.continuations:
            places = self._places(continuation[:-1])
            chosen = logits[places, list(continuation)].double()
            greedy = [best[place] for place in places] == list(continuation)
            found.append((float((chosen - normalizer[places]).sum()), greedy))
        return found

    def _places(self, beginning: Row) -> list[int]:
        start = 1
        for row in self.rows:
            if row[: len(beginning)] == beginning:
                return [0, *range(start, start + len(beginning))]
            start += len(row)
        return [0]
