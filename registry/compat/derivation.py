"""The contract's checks on what a model was made of: merged from a base, quantized from either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from registry.compat.adapter import no_outline, some
from registry.compat.model import Check, Checker, CheckSpec, Described, Pair
from registry.compat.shapes import TensorGroup, is_end, is_head, model_outline

_BESIDE = frozenset({"scales", "qzeros", "g_idx"})
"""What GPTQ stores beside a module's packed weights."""

Groups = Mapping[str, tuple[TensorGroup, ...]]


def _merge_base(subject: Pair) -> Iterator[Check]:
    """A quantized file comes from a model merged in the same way as this one."""
    base, dependent = subject.base, subject.dependent
    if dependent is None or (base.kind, dependent.kind) != ("merged", "quantized"):
        return
    expected, found = (model.quant.merge_base if model.quant else None for model in (base, dependent))
    spec = CheckSpec("merge base", expected or "16bit or nf4")
    if expected is None or found is None:
        todo = "which weights the adapter was merged into is not recorded: evaluate both"
        yield spec.unknown(todo, found or "no record of it")
    elif expected != found:
        yield spec.refused(found, "this file was made from another merged model: quantize anew")
    else:
        yield spec.ok()


def _made_of(subject: Pair) -> Iterator[Check]:
    """A merged or GPTQ model has its source's tensors, in their shapes but for a resized embedding."""
    base, dependent = subject.base, subject.dependent
    packed = dependent is not None and dependent.quant is not None and dependent.quant.is_packed
    if dependent is None or base.kind not in ("base", "merged") or subject.use.rendering:
        return
    if dependent.kind != "merged" and not packed:
        return
    before, after = model_outline(base.metrics), model_outline(dependent.metrics)
    if before is None or after is None:
        yield no_outline("tensors", base.kind if before is None else dependent.kind)
        return
    tensors = _unpacked(dependent, after.tensors)
    if wrong := _differing(before.tensors, tensors, packed):
        spec = CheckSpec("tensors", f"the {base.kind} model's tensors in its shapes")
        yield spec.refused(some(wrong), "it was made from another model")
    else:
        yield CheckSpec("tensors", f"{len(tensors)} kinds of tensors, as the {base.kind} model").ok()


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
    shapes = {name: " or ".join(str(list(group.shape)) for group in after[name]) for name in odd}
    return [f"{name} {shape}" for name, shape in shapes.items()] + [f"no {name}" for name in gone]


def _source(before: Groups, name: str, packed: bool) -> str | None:
    """The tensor that `name` was made of, under its own name or without that of the inner model."""
    if name in before or not packed:
        return name if name in before else None
    return next((tensor for tensor in before if name.endswith(f".{tensor}")), None)


def _may_be_new(name: str, packed: bool) -> bool:
    """A head that was tied; and biases of zeros, which auto-gptq gave to layers that had none."""
    return is_head(name) or (packed and name.endswith(".bias"))


def _weights(tensors: Groups, names: list[str]) -> int:
    return sum(group.count * prod(group.shape) for name in names for group in tensors[name])


def _unpacked(model: Described, tensors: Groups) -> Groups:
    """GPTQ's packed modules as what they stand for: (inputs · bits / 32, outputs) → (outputs, inputs)."""
    bits = model.quant.effective.get("bits") if model.quant and model.quant.is_packed else None
    if not isinstance(bits, int) or bits <= 0:
        return tensors
    unpacked: dict[str, tuple[TensorGroup, ...]] = {}
    for name, groups in tensors.items():
        module, _, part = name.rpartition(".")
        if part == "qweight" and all(len(group.shape) == 2 for group in groups):
            shapes = [(group.shape[1], group.shape[0] * 32 // bits) for group in groups]
            unpacked[f"{module}.weight"] = tuple(
                group.model_copy(update={"shape": shape}) for group, shape in zip(groups, shapes, strict=True)
            )
        elif part not in _BESIDE:
            unpacked[name] = groups
    return unpacked


CHECKS: dict[str, Checker] = {"merge base": _merge_base, "tensors": _made_of}


def _same(base: tuple[TensorGroup, ...], made: tuple[TensorGroup, ...], name: str, packed: bool) -> bool:
    counts = sum(group.count for group in base) == sum(group.count for group in made)
    shapes = {group.shape for group in base}
    turned = {shape[::-1] for shape in shapes} if packed else set()
    return counts and all(
        g.shape in shapes | turned or (is_end(name) and {s[1:] for s in shapes} == {g.shape[1:]})
        for g in made
    )
