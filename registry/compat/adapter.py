"""The contract's checks on an adapter and the model that it is put on."""

from __future__ import annotations

from collections.abc import Iterator

from registry.artifacts import QuantSpec
from registry.compat.base_reference import differing
from registry.compat.model import Check, Checker, CheckSpec, Described, Pair
from registry.compat.shapes import (
    AdapterOutline,
    LoraTarget,
    ModelOutline,
    Nf4Recipe,
    TensorGroup,
    adapter_outline,
    is_end,
    model_outline,
)

TRAINED_ON = "trained_on"
"""Where the effective quantization of a GGUF adapter says how the base was quantized in training."""

_SHOWN = 3
"""Names shown before the rest is counted."""


def _targets(subject: Pair) -> Iterator[Check]:
    """Every module that the adapter changes exists in the model, with the widths that the adapter has."""
    outlines = _adapter_on_model(subject)
    if outlines is None:
        return
    adapter, model = outlines
    if adapter is not None and _gguf_of_its_base(subject):
        yield CheckSpec("targets", "modules of the base that both were made for").ok()
        return
    if adapter is None or model is None or not model.tensors:
        yield no_outline("targets", "adapter" if adapter is None else subject.base.kind)
        return
    missing = [name for name in adapter.targets if _tensors(model, name) is None]
    if missing:
        spec = CheckSpec("targets", f"modules of the model, such as {some(_modules(model))}")
        todo = "the adapter belongs to another architecture, or its keys were renamed"
        yield spec.refused(some(missing), todo)
        return
    targets = [(name, target) for name, group in adapter.targets.items() for target in group]
    wrong = [
        f"{name} {target.inputs}→{target.outputs}"
        for name, target in targets
        if not _fits(target, _tensors(model, name) or ())
    ]
    if wrong:
        spec = CheckSpec("targets", _expected_shapes(model, adapter))
        yield spec.refused(some(wrong), "the adapter belongs to a model of another size")
        return
    spec = CheckSpec("targets", f"{sum(target.count for _, target in targets)} modules")
    yield spec.ok(f"{spec.expected}: {some([n.rpartition('.')[2] for n in adapter.targets], 8)}")


def _saved(subject: Pair) -> Iterator[Check]:
    """Tensors that the adapter stores whole exist in the model, and only an embedding may have other rows."""
    adapter, model = _adapter_on_model(subject) or (None, None)
    if adapter is None or model is None or not model.tensors:
        return  # reported by "targets"
    for name, shape in adapter.saved.items():
        groups = _stored(model, name)
        found = f"{name} {list(shape)}"
        if groups is None:
            spec = CheckSpec("saved modules", "a tensor of the model")
            yield spec.refused(name, "the adapter belongs to another model")
        elif not any(group.shape == shape or _resized(name, group, shape) for group in groups):
            spec = CheckSpec("saved modules", " or ".join(str(list(group.shape)) for group in groups))
            yield spec.refused(found, "the adapter belongs to a model of another size")
        else:
            yield CheckSpec("saved modules", name).ok(found)


def _vocabulary(subject: Pair) -> Iterator[Check]:
    """The resize rule: an adapter that brings rows brings their tokenizer; ids never exceed rows."""
    adapter, _ = _adapter_on_model(subject) or (None, None)
    reference = subject.base.base
    if adapter is None or reference is None:
        return
    resized = adapter.embedding_rows not in (None, reference.embedding_rows)
    rows = adapter.embedding_rows or reference.embedding_rows
    ids = adapter.tokenizer_length if adapter.tokenizer_length is not None else reference.tokenizer_length
    if resized and adapter.tokenizer_length is None:
        spec = CheckSpec("vocabulary", f"the tokenizer of its {rows} embedding rows beside the adapter")
        yield spec.refused("none", "save the tokenizer it was trained with into the adapter's directory")
    elif ids > rows:
        spec = CheckSpec("vocabulary", f"at most {rows} token ids, one for each embedding row")
        todo = "train the added rows too (modules_to_save: the embeddings) or use the base's tokenizer"
        yield spec.refused(f"{ids} ids in the adapter's tokenizer", todo)
    else:
        yield CheckSpec("vocabulary", f"up to {rows} ids").ok(f"{ids} ids for {rows} rows")


def _quant_recipe(subject: Pair) -> Iterator[Check]:
    """An adapter is used on weights quantized as in its training, or it is said that they are not."""
    if _adapter_on_model(subject) is None or subject.dependent is None:
        return
    trained, used = recipe_of(subject.dependent), subject.use.recipe
    here = _described(used) if used else _quantized_as(subject.base)
    if used is None and subject.use.measured:
        yield CheckSpec("quant recipe", f"measured on exactly these weights ({here})").ok()
        return
    if trained is None:
        spec = CheckSpec("quant recipe", "how the base was quantized in training")
        yield spec.unknown(f"evaluate the adapter on exactly these weights ({here})")
        return
    spec = CheckSpec("quant recipe", _described(trained))
    if used is not None and used.values != trained.values:
        todo = "use the recipe that it was trained with (evaluate.nf4)"
        yield spec.refused(_described(used), todo)
    elif used is None and subject.base.quant is not None and subject.base.quant.quantized:
        todo = "trained on other weights than these: evaluate exactly this pair before it serves"
        yield spec.unknown(todo, here)
    else:
        note = ""
        if used is None:
            note = "trained on NF4 and used on 16-bit weights: its evaluation there says what that costs"
        elif used.compute_dtype != trained.compute_dtype:
            note = f"the same NF4 values, trained in {trained.compute_dtype} and used in {used.compute_dtype}"
        yield spec.ok(f"trained on {spec.expected}", note)


CHECKS: dict[str, Checker] = {
    "targets": _targets,
    "saved modules": _saved,
    "vocabulary": _vocabulary,
    "quant recipe": _quant_recipe,
}


def recipe_of(adapter: Described) -> Nf4Recipe | None:
    """The NF4 recipe that an adapter was trained with, where its manifest says so."""
    quant = adapter.quant
    asked = {**quant.requested, **_effective_dtype(quant)} if quant and quant.is_nf4 else {}
    if quant and quant.is_gguf:
        asked = quant.effective.get(TRAINED_ON) or {}
    if not all(name in asked for name in Nf4Recipe.model_fields):
        return None
    return Nf4Recipe.model_validate({name: asked[name] for name in Nf4Recipe.model_fields})


def _effective_dtype(quant: QuantSpec) -> dict[str, str]:
    """`auto` may have been asked for; manifests of before hold what was asked for alone."""
    return {k: v for k, v in quant.effective.items() if k == "compute_dtype"}


def _adapter_on_model(subject: Pair) -> tuple[AdapterOutline | None, ModelOutline | None] | None:
    base, dependent = subject.base, subject.dependent
    if dependent is None or dependent.kind != "adapter" or base.kind not in ("base", "merged", "quantized"):
        return None
    return adapter_outline(dependent.metrics), model_outline(base.metrics)


def _gguf_of_its_base(subject: Pair) -> bool:
    """A GGUF file's outline names no tensors; the adapter's were looked for in the base, whose digest says
    that the file was made from it."""
    base, dependent = subject.base, subject.dependent
    if base.quant is None or not base.quant.is_gguf or base.base is None:
        return False
    return dependent is not None and dependent.base is not None and not differing(base.base, dependent.base)


def no_outline(name: str, kind: str) -> Check:
    """The answer where a manifest holds no outline."""
    spec = CheckSpec(name, f"the shape of the {kind} in its manifest")
    return spec.unknown(f"it was made by an older version: make the {kind} again, or import it")


def _tensors(model: ModelOutline, module: str) -> tuple[TensorGroup, ...] | None:
    """A module's weight; packed layers of a GPTQ model have `qweight` in its place."""
    return _stored(model, f"{module}.weight") or _stored(model, f"{module}.qweight")


def _stored(model: ModelOutline, name: str) -> tuple[TensorGroup, ...] | None:
    """Some checkpoints leave out the inner model's name (GPT-2), and a tied head is not stored at all."""
    for tensor, groups in model.tensors.items():
        if tensor == name or name.endswith(f".{tensor}") or tensor.endswith(f".{name}"):
            return groups
    if model.tied and name == "lm_head.weight":
        return next((groups for tensor, groups in model.tensors.items() if is_end(tensor)), None)
    return None


def _fits(target: LoraTarget, groups: tuple[TensorGroup, ...]) -> bool:
    """Widths equal in either layout: (out, in) in a Linear, (in, out) in a Conv1D; packed ones say less."""
    for group in groups:
        if group.dtype in ("I32", "U8") and target.count <= group.count:
            # GPTQ packs along the inputs: (inputs · bits / 32, outputs)
            if group.shape[-1] == target.outputs:
                return True
        elif sorted(group.shape) == sorted((target.inputs, target.outputs)) and target.count <= group.count:
            return True
    return False


def _resized(name: str, group: TensorGroup, shape: tuple[int, ...]) -> bool:
    return is_end(name) and group.shape[1:] == shape[1:]


def _modules(model: ModelOutline) -> list[str]:
    """The linear layers of a model's blocks, by their short names."""
    names = [n for n, groups in model.tensors.items() if "*" in n and len(groups[0].shape) == 2]
    return [name.rpartition(".")[0].rpartition(".")[2] for name in names]


def _expected_shapes(model: ModelOutline, adapter: AdapterOutline) -> str:
    shown = []
    for name in adapter.targets:
        shapes = sorted({group.shape for group in _tensors(model, name) or ()})
        shown.append(f"{name.rpartition('.')[2]} {' or '.join(str(list(shape)) for shape in shapes)}")
    return some(shown)


def some(names: list[str], shown: int = _SHOWN) -> str:
    """The first few names, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - shown} more" if len(distinct) > shown else ""
    return ", ".join(distinct[:shown]) + more


def _described(recipe: Nf4Recipe) -> str:
    nested = "with" if recipe.double_quant else "without"
    return f"{recipe.quant_type} {nested} double quantization in {recipe.compute_dtype}"


def _quantized_as(model: Described) -> str:
    return model.quant.method if model.quant is not None and model.quant.quantized else "16-bit weights"
