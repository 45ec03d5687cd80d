"""Whether artifacts may be combined, and whether an engine may have them: from their manifests alone.

Each check answers ok, refused or unknown, with what was expected, what was found and what to do. Refused
stops whoever asked. Unknown is reported, never treated as ok: there the manifests do not say enough.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from registry.compat import adapter, base_reference, derivation, engine
from registry.compat.model import Check, Checker, Described, Pair
from registry.errors import Incompatible

log = logging.getLogger("tuneline.compat")


def checkers() -> dict[str, Checker]:
    """Every check of the contract by name, in the order in which they are told."""
    return {"kinds": _kinds, **base_reference.CHECKS, **adapter.CHECKS, **derivation.CHECKS, **engine.CHECKS}


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
