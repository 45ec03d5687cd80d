"""An answer in the making, what is told of it, and where its keys and values lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from serving.llama_cpp.model import Sampler, Sampling


@dataclass(frozen=True)
class Finished:
    """The answer is complete: `stop`, or `length` at its limit or the context's."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """There will be no more of this answer."""

    message: str
    overloaded: bool = False


CacheKey = tuple[int, str]
"""The serial number of an adapter's load, and a salt."""
Event = bytes | Finished | Failed
"""A token's text (which may end within a character), or the end."""


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
