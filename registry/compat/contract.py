"""Whether artifacts may be combined, and whether an engine may have them: from their manifests alone.

Each check answers ok, refused or unknown, with what was expected, what was found and what to do. Refused
stops whoever asked. Unknown is told and never counted as ok: there the manifests do not say enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from registry.artifacts import BaseReference, Kind, QuantSpec
from registry.compat.shapes import Nf4Recipe
from registry.errors import Incompatible

log = logging.getLogger("tuneline.compat")

COMPARED = (
    "architecture", "revision", "weights_digest", "tokenizer_digest", "tokenizer_length", "embedding_rows",
    "chat_template_digest",
)  # fmt: skip

_RENDERING = frozenset({"tokenizer_digest", "tokenizer_length", "chat_template_digest"})

State = Literal["ok", "refused", "unknown"]

_ORDER: dict[Kind, int] = {
    "base": 0,
    "merged": 1,
    "quantized": 2,
    "adapter": 3,
    "dataset": 4,
    "evaluation": 5,
}

ADVICE = {
    "architecture": "use the base it was made for",
    "revision": "resolve the base at the revision it was made for",
    "weights_digest": "these are other weights: use the base it was made for, or make it again for this one",
    "tokenizer_digest": "texts would become other token ids: use the tokenizer it was made with",
    "tokenizer_length": "use the tokenizer it was made with",
    "embedding_rows": "the embedding was resized or padded differently: use the base it was made for",
    "chat_template_digest": "chats would be rendered differently: give the template it was made with",
}  # fmt: skip


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
    adapters: frozenset[str]
    """Quantization methods of the adapters that it loads: `gguf`, or PEFT's `none` and `bnb`."""
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
    """How the host will be quantized when the adapter is put on it."""
    architectures: frozenset[str] | None = None
    """What the engine, or the converter to its format, knows; None: not known here."""
    naming: bool = False
    """Whether the architecture has to be one of these."""
    measured: bool = False
    """Exactly this pair was evaluated, or is about to be."""
    rendering: bool = False
    """The host only renders chats and counts tokens for the guest: its weights do not matter."""


@dataclass(frozen=True)
class Pair:
    """`host` is what was there first: the base before the adapter, the merged model before its GGUF file."""

    host: Described
    guest: Described | None = None
    use: Use = field(default_factory=Use)


def pair(a: Described, b: Described | None = None, use: Use | None = None) -> Pair:
    """The two in their natural order, whichever was given first."""
    if b is not None and _ORDER[b.kind] < _ORDER[a.kind]:
        a, b = b, a
    return Pair(a, b, use or Use())


Checker = Callable[[Pair], Iterable[Check]]


def checkers() -> dict[str, Checker]:
    """Every check of the contract by name, in the order in which they are told."""
    from registry.compat import adapter as compat_adapter
    from registry.compat import derivation
    from registry.compat import engine as compat_engine

    base = {name: _comparing(name) for name in COMPARED}
    return {
        "kinds": _kinds, **base, **compat_adapter.CHECKS, **derivation.CHECKS, **compat_engine.CHECKS,
    }  # fmt: skip


def examine(subject: Pair, without: frozenset[str] = frozenset()) -> list[Check]:
    """All answers about the pair; `without` leaves checks out (to test that each one matters)."""
    return [
        found for name, checker in checkers().items() if name not in without for found in checker(subject)
    ]


def require(subject: Pair, what: str) -> list[Check]:
    """Raise Incompatible with every refusal; `what` says what is refused then. Returns all answers.

    What is unknown refuses nothing: it is logged as a note on what goes on.
    """
    found = examine(subject)
    refused = [one.line() for one in found if one.state == "refused"]
    if refused:
        raise Incompatible(f"{what}: " + "; ".join(refused))
    for one in found:
        if one.state == "unknown":
            log.warning("going on with this %s; not known: %s", _together(subject), one.line())
    return found


def _together(subject: Pair) -> str:
    guest = "" if subject.guest is None else f" and this {subject.guest.kind}"
    return f"{subject.host.kind}{guest}"


def check(base: BaseReference, manifest: Described) -> None:
    """Raise Incompatible unless the artifact (an adapter, usually) belongs to exactly this base.

    The source may differ, since one model can come from two places: then the commit of one cannot be compared
    with the digest of the other, and the digests decide. Every other field must be equal.
    """
    if manifest.base is None:
        raise Incompatible(
            f"this {manifest.kind} carries no base reference, expected that of {base.source}; "
            "use an artifact that a stage of Tuneline made or that was imported with its base"
        )
    refused = [f"{a.name}: expected {a.expected}, found {a.found}" for a in differing(base, manifest.base)]
    if refused:
        raise Incompatible(
            f"this {manifest.kind} was made for {manifest.base.source}, not for the base {base.source}; "
            f"{'; '.join(refused)}; use the base it was made for, or make it again for this one"
        )


def differing(host: BaseReference, guest: BaseReference) -> list[Check]:
    """The refusals between two base references; empty where they name one model."""
    answers = [_compare(name, host, guest) for name in COMPARED]
    return [answer for answer in answers if answer.state == "refused"]


def short(value: object) -> str:
    """The beginning of a digest, anything else whole up to 60 characters."""
    text = str(value)
    if len(text) >= 40 and all(c in "0123456789abcdef" for c in text):
        return text[:12] + "…"
    return text if len(text) <= 60 else text[:59] + "…"


def _comparing(name: str) -> Checker:
    def compare(subject: Pair) -> Iterator[Check]:
        if subject.guest is None:
            return
        host, guest = subject.host.base, subject.guest.base
        if host is None or guest is None:
            if name == COMPARED[0]:
                which = subject.host if host is None else subject.guest
                yield _no_base(which)
            return
        if subject.use.rendering and name not in _RENDERING:
            return
        yield _compare(name, host, guest)

    return compare


def _compare(name: str, host: BaseReference, guest: BaseReference) -> Check:
    expected, found = getattr(host, name), getattr(guest, name)
    if expected == found:
        return Check(name, "ok", short(expected), short(found))
    schemes = {reference.source.partition(":")[0] for reference in (host, guest)}
    if name == "revision" and len(schemes) > 1:
        note = f"from {host.source} and {guest.source}; the digests decide"
        return Check(name, "ok", short(expected), short(found), note)
    return Check(name, "refused", short(expected), short(found), ADVICE[name])


def _no_base(which: Described) -> Check:
    state: State = "unknown" if which.kind in ("dataset", "evaluation") else "refused"
    return Check(
        "base", state, f"a {which.kind} that says which base it was made for", "no base reference",
        "make it again, or import it with --base",
    )  # fmt: skip


def holds_tune(held: Described) -> bool:
    """Whether an adapter is folded into this model, so that no other may be put on it."""
    folded = held.quant is not None and held.quant.merge_base is not None
    return held.kind == "merged" or (held.kind == "quantized" and folded)


def _kinds(subject: Pair) -> Iterator[Check]:
    host, guest = subject.host, subject.guest
    if guest is None:
        return
    kinds = f"{guest.kind} with {host.kind}"
    expected = "an artifact and what it was made for or from"
    if guest.kind == "adapter" and host.kind == "merged":
        todo = "the merged model holds a tune already: put the adapter on the base"
        yield Check("kinds", "refused", "an adapter on a base", kinds, todo)
    elif guest.kind == "adapter" and holds_tune(host):
        todo = "the merged model in it holds a tune already: put the adapter on a quantized base"
        yield Check("kinds", "refused", "an adapter on a base", f"{kinds} made of a merged model", todo)
    elif guest.kind == host.kind == "adapter":
        yield Check("kinds", "ok", expected, kinds, "they can be served side by side on one base")
    elif host.kind in ("dataset", "evaluation"):
        yield Check("kinds", "refused", "a model on one side", kinds, "compare one of them with a model")
    else:
        yield Check("kinds", "ok", expected, kinds)
