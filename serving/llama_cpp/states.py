"""Texts whose mean state is asked for, on the engine's thread: the base's, without any adapter.

A request's texts are read one after the other in one sequence. Between two of them it gives way to who waits;
and all such requests together have a share of the sequences only, so that answers do not wait for long texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.llama_cpp.bindings import Entry
from serving.llama_cpp.model import STATES_TOKENS, LlamaModel
from serving.llama_cpp.sampling import Sampling
from serving.llama_cpp.sequences import Answer, Event

BESIDE_ANSWERS = 16
"""Tokens read in one step while answers are under way: texts then take about as long as one more adapter."""


@dataclass(eq=False)
class Texts(Answer):
    """The texts of one request; `prompt` and `tokens` are the one that is read now."""

    following: deque[tuple[int, ...]] = field(default_factory=deque)
    """Those that are not begun."""
    means: list[NDArray[np.float32]] = field(default_factory=list)
    """[width], of each text that is done."""
    total: NDArray[np.float64] | None = None
    """[width], of the states of the text's tokens so far."""

    @property
    def whole(self) -> bool:
        """Whether all tokens of the text that is read now have been read."""
        return self.read == len(self.tokens)

    def add(self, states: NDArray[np.float32]) -> None:
        """Some more tokens of the text that is read now: their states [tokens, width]."""
        found: NDArray[np.float64] = states.sum(axis=0, dtype=np.float64)
        self.total = found if self.total is None else self.total + found

    def next_text(self) -> bool:
        """Keep the mean of the text that has been read; whether there is another, which is now to be read."""
        assert self.total is not None
        self.means.append((self.total / len(self.tokens)).astype(np.float32))
        self.total = None
        if not self.following:
            return False
        self.prompt = self.following.popleft()
        self.tokens, self.read = list(self.prompt), 0
        return True


def texts_of(model: str, texts: Sequence[tuple[int, ...]], tell: Callable[[Event], None]) -> Texts:
    """`texts`: tokens of each, none empty; `model`: a served name, whose base's states they get."""
    return Texts(model, texts[0], 0, Sampling(), None, tell, following=deque(texts[1:]))


def next_states(
    active: Iterable[Answer], beside_answers: bool = False
) -> tuple[list[Entry], list[tuple[Texts, slice]]]:
    """An equal share of a step for each text, in the order of their sequences; and whose entries are where.

    llama.cpp computes together as many tokens of each sequence. Of more texts than fit, those come first of
    which the least has been read.
    """
    texts = [answer for answer in active if isinstance(answer, Texts)]
    room = BESIDE_ANSWERS if beside_answers else STATES_TOKENS
    texts = sorted(texts, key=lambda text: text.read)[:room]
    share = room // len(texts)
    entries: list[Entry] = []
    places: list[tuple[Texts, slice]] = []
    for text in sorted(texts, key=lambda text: text.sequence):
        begin, end = text.read, min(len(text.tokens), text.read + share)
        places.append((text, slice(len(entries), len(entries) + end - begin)))
        entries += [(text.tokens[at], at, text.sequence, True) for at in range(begin, end)]
        text.read = end
    return entries, places


def read_states(model: LlamaModel, active: Iterable[Answer], beside_answers: bool) -> list[Texts]:
    """Read some more of each text; those that have been read to their end. Raises `EngineFailed`."""
    entries, places = next_states(active, beside_answers)
    states = model.states(entries)
    for text, place in places:
        text.add(states[place])
    return [text for text, _ in places if text.whole]
