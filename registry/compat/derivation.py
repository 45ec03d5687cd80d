"""The contract's checks on what a model was made of: merged from a base, quantized from either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from registry.compat.adapter import no_outline, some
from registry.compat.model import Check, Checker, Described, Pair
from registry.compat.shapes import TensorGroup, is_end, is_head, model_outline

_BESIDE = frozenset({"scales", "qzeros", "g_idx"})
"""What GPTQ stores beside a module's packed weights."""

Groups = Mapping[str, tuple[TensorGroup, ...]]


def _merge_base(subject: Pair) -> Iterator[Check]:
    """A quantized file comes from a model folded in the same way as this one."""
    host, guest = subject.host, subject.guest
    if guest is None or (host.kind, guest.kind) != ("merged", "quantized"):
        return
    expected, found = (one.quant.merge_base if one.quant else None for one in (host, guest))
    if expected is None or found is None:
        yield Check(
            "merge base", "unknown", expected or "16bit or nf4", found or "no record of it",
            "which weights the adapter was folded into is not recorded: evaluate both",
        )  # fmt: skip
    elif expected != found:
        yield Check(
            "merge base",
            "refused",
            expected,
            found,
            "this file was made from another merged model: quantize anew",
        )
    else:
        yield Check("merge base", "ok", expected, found)


def _made_of(subject: Pair) -> Iterator[Check]:
    """A merged or GPTQ model has its source's tensors, in their shapes but for a resized embedding."""
    host, guest = subject.host, subject.guest
    packed = guest is not None and guest.quant is not None and guest.quant.is_packed
    if guest is None or host.kind not in ("base", "merged") or subject.use.rendering:
        return
    if guest.kind != "merged" and not packed:
        return
    before, after = model_outline(host.metrics), model_outline(guest.metrics)
    if before is None or after is None:
        yield no_outline("tensors", host.kind if before is None else guest.kind)
        return
    tensors = _unpacked(guest, after.tensors)
    if wrong := _differing(before.tensors, tensors, packed):
        expected = f"the {host.kind} model's tensors in its shapes"
        yield Check("tensors", "refused", expected, some(wrong), "it was made from another model")
    else:
        words = f"{len(tensors)} kinds of tensors, as the {host.kind} model"
        yield Check("tensors", "ok", words, words)


def _differing(before: Groups, after: Groups, packed: bool) -> list[str]:
    """What is not as it was, in words.

    GPTQModel names the inner model where a checkpoint leaves its name out, stores GPT-2's layers as everybody
    else's, and takes apart what transformers holds in one tensor (experts, halves of an MLP): of those the
    number of weights is compared.
    """
    sources = {name: _source(before, name, packed) for name in after}
    odd = [n for n, source in sources.items() if source is None and not _may_be_new(n, packed)]
    gone = [n for n in before if n not in sources.values() and not is_head(n)]
    if packed and _weights(before, gone) == _weights(after, odd):
        odd, gone = [], []
    odd += [n for n, source in sources.items() if source and not _same(before[source], after[n], n, packed)]
    shapes = {name: " or ".join(str(list(one.shape)) for one in after[name]) for name in odd}
    return [f"{name} {shape}" for name, shape in shapes.items()] + [f"no {name}" for name in gone]


def _source(before: Groups, name: str, packed: bool) -> str | None:
    """The tensor that `name` was made of, under its own name or without that of the inner model."""
    if name in before or not packed:
        return name if name in before else None
    return next((known for known in before if name.endswith(f".{known}")), None)


def _may_be_new(name: str, packed: bool) -> bool:
    """A head that was tied; and biases of zeros, which auto-gptq gave to layers that had none."""
    return is_head(name) or (packed and name.endswith(".bias"))


def _weights(tensors: Groups, names: list[str]) -> int:
    return sum(one.count * prod(one.shape) for name in names for one in tensors[name])


def _unpacked(model: Described, tensors: Groups) -> Groups:
    """GPTQ's packed modules as what they stand for: (inputs · bits / 32, outputs) → (outputs, inputs)."""
    bits = model.quant.effective.get("bits") if model.quant and model.quant.is_packed else None
    if not isinstance(bits, int) or bits <= 0:
        return tensors
    found: dict[str, tuple[TensorGroup, ...]] = {}
    for name, groups in tensors.items():
        module, _, part = name.rpartition(".")
        if part == "qweight" and all(len(one.shape) == 2 for one in groups):
            found[f"{module}.weight"] = tuple(
                one.model_copy(update={"shape": (one.shape[1], one.shape[0] * 32 // bits)}) for one in groups
            )
        elif part not in _BESIDE:
            found[name] = groups
    return found


CHECKS: dict[str, Checker] = {"merge base": _merge_base, "tensors": _made_of}


def _same(base: tuple[TensorGroup, ...], made: tuple[TensorGroup, ...], name: str, packed: bool) -> bool:
    counts = sum(group.count for group in base) == sum(group.count for group in made)
    shapes = {group.shape for group in base}
    turned = {shape[::-1] for shape in shapes} if packed else set()
    return counts and all(
        g.shape in shapes | turned or (is_end(name) and {s[1:] for s in shapes} == {g.shape[1:]})
        for g in made
    )
