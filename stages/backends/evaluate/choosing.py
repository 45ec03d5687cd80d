"""The next token of an answer: the likeliest, or one that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Floats = np.ndarray[Any, np.dtype[np.float64]]
Choose = Callable[[torch.Tensor, Sequence[int]], Sequence[int]]
"""(logits [alive, vocabulary], which of the rows each is of) → the next token of each."""


def likeliest(logits: torch.Tensor, _: Sequence[int]) -> Sequence[int]:
    """The likeliest token of each row."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    return tokens


def by_seeds(seeds: Sequence[int], temperature: float, top_p: float) -> Choose:
    """Draws the tokens of each row from numbers that its own seed and the token's place in the answer decide.

    Every token of the vocabulary has its own number, so models that are nearly the same draw nearly the same.
    """
    places = [0] * len(seeds)

    def choose(logits: torch.Tensor, rows: Sequence[int]) -> Sequence[int]:
        tokens = []
        for own, row in zip(logits.double().numpy() / temperature, rows, strict=True):
            numbers = np.random.Generator(np.random.PCG64([seeds[row], places[row]])).random(len(own))
            tokens.append(drawn(own, numbers, top_p))
            places[row] += 1
        return tokens

    return choose


def drawn(logits: Floats, numbers: Floats, top_p: float) -> int:
    """A token, drawn as its probability says (the Gumbel-max trick: Maddison et al. 2014, arXiv 1411.0030).

    `logits`, and `numbers` in [0, 1): float64 [vocabulary]. Only the fewest likeliest tokens count whose
    probabilities reach `top_p` together (Holtzman et al. 2020, arXiv 1904.09751).
    """
    tokens = np.arange(len(logits))
    if top_p < 1:
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        # all that are less likely than this are less than 1 - top_p together
        likely = np.flatnonzero(weights >= (1 - top_p) / len(weights))
        ranked = likely[np.argsort(-weights[likely], kind="stable")]
        tokens = ranked[np.cumsum(weights[ranked]) - weights[ranked] < top_p]
    gumbel = -np.log(-np.log(np.maximum(numbers[tokens], np.finfo(np.float64).tiny)))
    return int(tokens[np.argmax(logits[tokens] + gumbel)])
