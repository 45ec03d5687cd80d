"""Whether two artifacts name one base model, field by field."""

from __future__ import annotations

from collections.abc import Iterator

from registry.artifacts import BaseReference
from registry.compat.model import Check, Checker, CheckSpec, Described, Pair
from registry.errors import Incompatible

ADVICE = {
    "architecture": "use the base it was made for",
    "revision": "resolve the base at the revision it was made for",
    "weights_digest": "these are other weights: use the base it was made for, or make it again for this one",
    "tokenizer_digest": "texts would become other token ids: use the tokenizer it was made with",
    "tokenizer_length": "use the tokenizer it was made with",
    "embedding_rows": "the embedding was resized or padded differently: use the base it was made for",
    "chat_template_digest": "chats would be rendered differently: give the template it was made with",
}
"""Each field that is compared, and what to do where it differs."""

COMPARED = tuple(ADVICE)

_RENDERING = frozenset({"tokenizer_digest", "tokenizer_length", "chat_template_digest"})


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


def differing(base: BaseReference, dependent: BaseReference) -> list[Check]:
    """The refusals between two base references; empty where they name one model."""
    answers = [_compare(name, base, dependent) for name in COMPARED]
    return [answer for answer in answers if answer.state == "refused"]


def short(value: object) -> str:
    """The beginning of a digest, anything else whole up to 60 characters."""
    text = str(value)
    if len(text) >= 40 and all(c in "0123456789abcdef" for c in text):
        return text[:12] + "…"
    return text if len(text) <= 60 else text[:59] + "…"


def _comparing(name: str) -> Checker:
    def compare(subject: Pair) -> Iterator[Check]:
        if subject.dependent is None:
            return
        base, dependent = subject.base.base, subject.dependent.base
        if base is None or dependent is None:
            if name == COMPARED[0]:
                yield _no_base(subject.base if base is None else subject.dependent)
            return
        if subject.use.rendering and name not in _RENDERING:
            return
        yield _compare(name, base, dependent)

    return compare


def _compare(name: str, base: BaseReference, dependent: BaseReference) -> Check:
    expected, found = getattr(base, name), getattr(dependent, name)
    spec = CheckSpec(name, short(expected))
    if expected == found:
        return spec.ok()
    schemes = {reference.source.partition(":")[0] for reference in (base, dependent)}
    if name == "revision" and len(schemes) > 1:
        note = f"from {base.source} and {dependent.source}; the digests decide"
        return spec.ok(short(found), note)
    return spec.refused(short(found), ADVICE[name])


def _no_base(artifact: Described) -> Check:
    spec = CheckSpec("base", f"a {artifact.kind} that says which base it was made for")
    found, todo = "no base reference", "make it again, or import it with --base"
    if artifact.kind in ("dataset", "evaluation"):
        return spec.unknown(todo, found)
    return spec.refused(found, todo)


CHECKS: dict[str, Checker] = {name: _comparing(name) for name in COMPARED}
