"""What the contract is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from registry.artifacts import BaseReference, Kind, QuantSpec
from registry.compat.shapes import Nf4Recipe

State = Literal["ok", "refused", "unknown"]

_ORDER: dict[Kind, int] = {
    "base": 0,
    "merged": 1,
    "quantized": 2,
    "adapter": 3,
    "dataset": 4,
    "evaluation": 5,
}


class Described(Protocol):
    """What the contract reads of an artifact: a manifest has it, and so has a stage's parent."""

    @property
    def kind(self) -> Kind: ...
    @property
    def base(self) -> BaseReference | None: ...
    @property
    def quant(self) -> QuantSpec | None: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Check:
    """One answer. `todo` is empty where nothing is to be done."""

    name: str
    state: State
    expected: str
    found: str
    todo: str = ""

    def line(self) -> str:
        """All of it in one line."""
        if self.state == "ok":
            note = f" ({self.todo})" if self.todo else ""
            return f"{self.name}: {self.found}{note}"
        return f"{self.name}: expected {self.expected}, found {self.found}; {self.todo}"


class CheckSpec(NamedTuple):
    """A check, and what it expects: answers are made of it."""

    name: str
    expected: str

    def ok(self, found: str | None = None, note: str = "") -> Check:
        """Found as expected."""
        return Check(self.name, "ok", self.expected, self.expected if found is None else found, note)

    def refused(self, found: str, todo: str) -> Check:
        """Found otherwise, which stops whoever asked."""
        return Check(self.name, "refused", self.expected, found, todo)

    def unknown(self, todo: str, found: str = "no record of it") -> Check:
        """The manifests do not say enough."""
        return Check(self.name, "unknown", self.expected, found, todo)


@dataclass(frozen=True)
class EngineLimits:
    """What a serving engine can do, of the version that this Tuneline is made for."""

    name: str
    version: str
    methods: frozenset[str]
    """Quantization methods whose files it reads."""
    kinds: frozenset[Kind]
    dtypes: frozenset[str]
    """Dtypes of unquantized weights, as safetensors names them; empty: whatever the file holds."""
    max_rank: int
    """Largest rank of an adapter, as the engine is started."""
    gguf_adapters: bool
    """Whether adapters are loaded as GGUF files; else as PEFT wrote them."""
    gptq_bits: frozenset[int] = frozenset()
    gptq_groups: frozenset[int] = frozenset()
    refused_lora: frozenset[str] = frozenset()
    """What an adapter must not have; the words are those of `registry.compat.engine`."""
    unsure_lora: frozenset[str] = frozenset()
    """Of the same words: what works for some architectures only."""


@dataclass(frozen=True)
class Use:
    """What is meant to be done with a pair."""

    engine: EngineLimits | None = None
    context_length: int | None = None
    """Tokens of prompt and answer that will be asked for."""
    recipe: Nf4Recipe | None = None
    """How the base will be quantized when the adapter is put on it."""
    architectures: frozenset[str] | None = None
    """What the engine, or the converter to its format, knows; None: not known here."""
    naming: bool = False
    """Whether the architecture has to be one of these."""
    measured: bool = False
    """Exactly this pair was evaluated, or is about to be."""
    rendering: bool = False
    """The base only renders chats and counts tokens for the other: its weights do not matter."""


@dataclass(frozen=True)
class Pair:
    """`base` is what was there first: the base before the adapter, the merged model before its GGUF file."""

    base: Described
    dependent: Described | None = None
    use: Use = field(default_factory=Use)

    @property
    def latest_first(self) -> tuple[Described, ...]:
        """The dependent, if there is one, and the base."""
        return (self.base,) if self.dependent is None else (self.dependent, self.base)


def pair(a: Described, b: Described | None = None, use: Use | None = None) -> Pair:
    """The two in their natural order, whichever was given first."""
    if b is not None and _ORDER[b.kind] < _ORDER[a.kind]:
        a, b = b, a
    return Pair(a, b, use or Use())


Checker = Callable[[Pair], Iterable[Check]]
