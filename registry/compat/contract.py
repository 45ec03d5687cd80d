"""Whether artifacts may be combined, and whether an engine may have them: from their manifests alone.

Each check answers ok, refused or unknown, with what was expected, what was found and what to do. Refused
stops whoever asked. Unknown is reported, never treated as ok: there the manifests do not say enough.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from registry.compat import adapter, base_reference, derivation, engine
from registry.compat.model import Check, Checker, CheckSpec, Described, Pair
from registry.errors import Incompatible

log = logging.getLogger("tuneline.compat")


def checkers() -> dict[str, Checker]:
    """Every check of the contract by name, in the order in which they are reported."""
    return {"kinds": _kinds, **base_reference.CHECKS, **adapter.CHECKS, **derivation.CHECKS, **engine.CHECKS}


def examine(subject: Pair, without: frozenset[str] = frozenset()) -> list[Check]:
    """All answers about the pair; `without` leaves checks out (to test that each one matters)."""
    chosen = (checker for name, checker in checkers().items() if name not in without)
    return [answer for checker in chosen for answer in checker(subject)]


def require(subject: Pair, what: str) -> list[Check]:
    """Raise Incompatible with every refusal; `what` says what is refused then. Returns all answers.

    What is unknown refuses nothing: it is logged as a note on what goes on.
    """
    answers = examine(subject)
    refused = [answer.line() for answer in answers if answer.state == "refused"]
    if refused:
        raise Incompatible(f"{what}: " + "; ".join(refused))
    both = " and this ".join(artifact.kind for artifact in reversed(subject.latest_first))
    for answer in answers:
        if answer.state == "unknown":
            log.warning("continuing with this %s; unknown: %s", both, answer.line())
    return answers


def holds_tune(held: Described) -> bool:
    """Whether an adapter is merged into this model, so that no other may be put on it."""
    merged = held.quant is not None and held.quant.merge_base is not None
    return held.kind == "merged" or (held.kind == "quantized" and merged)


def _kinds(subject: Pair) -> Iterator[Check]:
    base, dependent = subject.base, subject.dependent
    if dependent is None:
        return
    kinds = f"{dependent.kind} with {base.kind}"
    spec = CheckSpec("kinds", "an artifact and what it was made for or from")
    on_base = CheckSpec("kinds", "an adapter on a base")
    if dependent.kind == "adapter" and base.kind == "merged":
        todo = "the merged model holds a tune already: put the adapter on the base"
        yield on_base.refused(kinds, todo)
    elif dependent.kind == "adapter" and holds_tune(base):
        todo = "the merged model in it holds a tune already: put the adapter on a quantized base"
        yield on_base.refused(f"{kinds} made of a merged model", todo)
    elif dependent.kind == base.kind == "adapter":
        yield spec.ok(kinds, "they can be served side by side on one base")
    elif base.kind in ("dataset", "evaluation"):
        yield CheckSpec("kinds", "a model on one side").refused(kinds, "compare one of them with a model")
    else:
        yield spec.ok(kinds)
