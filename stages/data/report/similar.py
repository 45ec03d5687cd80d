"""Held-out rows that ask nearly what a trained row asks: what they measure may be memory."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stages.data.dedupe import FRAME, Neighbours, shared_by_many, shingles


class Pair(NamedTuple):
    """`likeness` of the questions from 0 to 1 (`stages.data.dedupe.overlap`); rows count from 1."""

    likeness: float
    train: int
    test: int


def similar(train: Sequence[str], test: Sequence[str], threshold: float, most: int) -> tuple[int, list[Pair]]:
    """How many questions of `test` are alike to one of `train`, and the `most` alike pairs, one a question.

    What many rows share, such as an instruction or a system text, is no likeness.
    """
    asked = [shingles([text]) for text in (*train, *test)]
    if not train or not test:
        return 0, []
    frames = shared_by_many(np.concatenate(asked)) if len(asked) >= FRAME else np.empty(0, np.uint64)
    neighbours = Neighbours(asked[: len(train)], frames)
    pairs = []
    for row, grams in enumerate(asked[len(train) :], 1):
        near = ((likeness, -place) for place, likeness in neighbours.of(grams) if likeness >= threshold)
        if best := max(near, default=None):
            pairs.append(Pair(best[0], 1 - best[1], row))
    return len(pairs), heapq.nlargest(most, pairs)
