"""An answer in the making, what is told of it, and where its keys and values lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from serving.llama_cpp.bindings import Entry
from serving.llama_cpp.model import BATCH_TOKENS
from serving.llama_cpp.sampling import Sampler, Sampling, TokenScore
from serving.llama_cpp.structured.constraints import Constraint


@dataclass(frozen=True)
class Token:
    """One more of an answer."""

    piece: bytes
    """Its text, which may end within a character."""
    score: TokenScore | None = None
    """How likely it was, where that was asked."""


@dataclass(frozen=True)
class Finished:
    """The answer is complete: `stop`, or `length` at its limit or the context's."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """There will be no more of this answer."""

    message: str
    code: Literal["unavailable", "overloaded", "invalid_schema"] = "unavailable"


CacheKey = tuple[int, str]
"""The serial number of an adapter's load, and a salt."""
Event = Token | Finished | Failed


@dataclass(eq=False)
class Answer:
    """An answer in the making. `tell` is called on the engine's thread, for each token and at the end."""

    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    salt: str | None
    tell: Callable[[Event], None]
    cached: int = 0
    """Tokens of the prompt that were not read again."""
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    read: int = 0
    sequence: int = -1
    sampler: Sampler | None = None
    constraint: Constraint | None = None
    """What it has to fit."""
    spoken: frozenset[int] = frozenset()
    """Special tokens whose text is told all the same."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)


@dataclass(eq=False)
class Sequence:
    """One of llama.cpp's sequences: who has it, or what is left in it."""

    number: int
    answer: Answer | None = None
    key: CacheKey | None = None
    tokens: list[int] = field(default_factory=list)
    used: float = 0.0

    def holds(self, key: CacheKey | None, prompt: tuple[int, ...]) -> int:
        """How many tokens of the prompt are in it; the last has to be read in any case."""
        if key is None or self.key != key:
            return 0
        pairs = zip(self.tokens, prompt[:-1], strict=False)
        whole = min(len(self.tokens), len(prompt) - 1)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), whole)


@dataclass
class TokenCounts:
    """What the engine has done since its start."""

    answers: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    rejected: int = 0
    cancelled: int = 0
    failed: int = 0
    switches: int = 0


def next_batch(active: Iterable[Answer]) -> tuple[list[Entry], list[tuple[Answer, int]]]:
    """Next tokens first, then what fits of the prompts; `ready`: whose logits are at which entry.

    Entries stand in the order of their sequences: llama.cpp computes together only sequences whose
    numbers follow each other in a batch, and each gap or step back costs a pass through the weights.
    """
    room, chunks = BATCH_TOKENS, list[tuple[Answer, int]]()
    for answer in sorted(active, key=lambda answer: len(answer.tokens) - answer.read):
        count = min(room, len(answer.tokens) - answer.read)
        room -= count
        chunks.append((answer, count))
    entries: list[Entry] = []
    ready: list[tuple[Answer, int]] = []
    for answer, count in sorted(chunks, key=lambda chunk: chunk[0].sequence):
        last = count > 0 and answer.read + count == len(answer.tokens)
        for position in range(answer.read, answer.read + count):
            wanted = last and position == len(answer.tokens) - 1
            entries.append((answer.tokens[position], position, answer.sequence, wanted))
        answer.read += count
        if last:
            ready.append((answer, len(entries) - 1))
    return entries, ready
