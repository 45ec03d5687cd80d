"""Decide, before anything is written, what every tensor of the merged model is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from registry.compat.peft import CONFIG
from stages.backends.merge.adapter import Adapter, Change
from stages.backends.merge.layout import Layout, ModuleKind
from stages.backends.safetensors import TensorFiles, TensorSpec
from stages.errors import InvalidInput

FLOATS = {"F64", "F32", "F16", "BF16"}
RESULT = {"float16": "F16", "bfloat16": "BF16"}
# Integer tensors that legitimately lie beside 16-bit weights: positions and masks.
BUFFERS = {"I64", "I32", "BOOL"}
PACKED_LEAVES = frozenset(
    ["qweight", "qzeros", "scales", "g_idx", "absmax", "quant_map", "SCB", "weight_packed", "weight_scale"]
)


@dataclass(frozen=True)
class LowRank:
    """ΔW = scale · B·A, laid out (out, in); `transposed` where the weight is stored (in, out).

    `magnitude`: DoRA's vector m, W' = m · (W + ΔW) / ‖W + ΔW‖ per output (arXiv:2402.09353, eq. 5).
    """

    a: str
    b: str
    scale: float
    transposed: bool
    magnitude: str | None


@dataclass(frozen=True)
class Output:
    """One tensor of the result. Exactly one of `source` (base) and `replacement` (adapter) is read."""

    spec: TensorSpec
    source: str
    replacement: str | None = None
    low_rank: LowRank | None = None
    bias: tuple[str, float] | None = None
    round_trip: ModuleKind | None = None
    """Kind of the module whose weight goes through NF4 and back before the update is added."""


@dataclass(frozen=True)
class MergePlan:
    """What becomes of every tensor: merged, replaced or copied."""

    outputs: list[Output]
    tied: bool
    """Whether the result shares input and output embedding."""
    rows: int | None
    """New number of embedding rows, where the adapter brings a resized embedding."""


@dataclass(frozen=True)
class Ingredients:
    """What a merge works on; `nf4`: merge into the weights after an NF4 round trip."""

    base: TensorFiles
    layout: Layout
    adapter: Adapter
    dtype: Literal["float16", "bfloat16"]
    nf4: bool


def make_plan(ingredients: Ingredients) -> MergePlan:
    """Account for every tensor of the base and of the adapter.

    Raises `InvalidInput` naming the tensor for: packed base weights, an adapter tensor whose module the base
    lacks, half a pair, a wrong shape, a rank other than the config's.
    """
    _refuse_packed(ingredients.base)
    sources, untied = _sources(ingredients)
    outputs = [_output(name, source, ingredients) for name, source in sources.items()]
    tied = bool(ingredients.layout.tied) and not untied
    return MergePlan(outputs, tied, _resized(outputs, ingredients))


def _sources(ingredients: Ingredients) -> tuple[dict[str, str], bool]:
    """Result tensor → base tensor it starts from, and whether tied tensors part ways."""
    base, layout, changes = ingredients.base, ingredients.layout, ingredients.adapter.changes
    sources = {name: name for name in base}
    known = {_model_name(name, ingredients) for name in base}
    untied = False
    for pair in layout.tied.items():
        first, second = (layout.stored(name, base) for name in pair)
        if not first and not second:
            continue
        known |= set(pair)
        alike = _same_change(ingredients.adapter, *(changes.get(name) for name in pair))
        if first and second:
            untied |= not (alike and torch.equal(base.read(first), base.read(second)))
        elif not alike:
            sources[pair[1] if first else pair[0]] = first or second or ""
            untied = True
    for target, change in changes.items():
        if target not in known:
            raise InvalidInput(
                f"adapter tensor {change.tensors()[0]} changes {target}, which the base model does not have; "
                "the adapter belongs to another model, or its keys were renamed"
            )
    return sources, untied


def _model_name(name: str, ingredients: Ingredients) -> str:
    """The model's name of a stored tensor: with the inner model's name, which some checkpoints leave out."""
    module, modules = name.rpartition(".")[0], ingredients.layout.modules
    inside = (
        name in ingredients.base
        and module not in modules
        and f"{ingredients.layout.prefix}.{module}" in modules
    )
    return f"{ingredients.layout.prefix}.{name}" if inside else name


def _same_change(adapter: Adapter, first: Change | None, second: Change | None) -> bool:
    """Whether two tied tensors are changed alike, so that they can stay tied."""
    if first is None or second is None:
        return first is second
    read = adapter.tensors.read
    if bool(first.replacement) != bool(second.replacement) or bool(first.parts) != bool(second.parts):
        return False
    if (
        first.replacement
        and second.replacement
        and not torch.equal(read(first.replacement), read(second.replacement))
    ):
        return False
    if not first.parts:
        return True
    head, embedding = (first, second) if "lora_A" in first.parts else (second, first)
    if set(head.parts) != {"lora_A", "lora_B"} or set(embedding.parts) != {
        "lora_embedding_A",
        "lora_embedding_B",
    }:
        return False
    # the head computes x·Aᵀ·Bᵀ and the embedding looks rows up in Aᵀ·Bᵀ: equal updates mean swapped factors
    return torch.equal(
        read(head.parts["lora_A"]), read(embedding.parts["lora_embedding_B"]).T
    ) and torch.equal(read(head.parts["lora_B"]), read(embedding.parts["lora_embedding_A"]).T)


def _output(name: str, source: str, ingredients: Ingredients) -> Output:
    model_name = _model_name(name, ingredients)
    module, _, leaf = model_name.rpartition(".")
    change = ingredients.adapter.changes.get(model_name) or Change()
    spec = _result_spec(name, model_name, ingredients.base.spec(source), change, ingredients)
    kind = ingredients.layout.modules.get(module)
    low_rank = _low_rank(module, spec.shape, change, ingredients) if change.parts else None
    bias = None
    if change.bias:
        if (shape := ingredients.adapter.tensors.spec(change.bias).shape) != spec.shape:
            raise _wrong_shape(change.bias, shape, f"{spec.shape} like {source}")
        bias = (change.bias, ingredients.adapter.scale(module))
    packed = (
        ingredients.nf4
        and leaf == "weight"
        and module in ingredients.layout.quantized
        and not change.replacement
    )
    return Output(spec, source, change.replacement, low_rank, bias, kind if packed else None)


def _result_spec(
    name: str, model_name: str, stored: TensorSpec, change: Change, ingredients: Ingredients
) -> TensorSpec:
    layout, (module, _, leaf) = ingredients.layout, model_name.rpartition(".")
    if stored.dtype not in FLOATS:
        if change.tensors():
            raise InvalidInput(
                f"adapter tensor {change.tensors()[0]} changes {stored.name}, which holds "
                f"{stored.dtype} and no floats"
            )
        return TensorSpec(name, stored.dtype, stored.shape)
    shape = stored.shape
    if change.replacement:
        shape = ingredients.adapter.tensors.spec(change.replacement).shape
        resizable = module in (layout.input_embedding, layout.output_embedding) and leaf == "weight"
        if shape != stored.shape and not (resizable and shape[1:] == stored.shape[1:]):
            raise _wrong_shape(change.replacement, shape, f"{stored.shape} like {stored.name}")
    return TensorSpec(
        name,
        "F32" if layout.stays_float32(model_name, ingredients.dtype) else RESULT[ingredients.dtype],
        shape,
    )


def _low_rank(module: str, shape: tuple[int, ...], change: Change, ingredients: Ingredients) -> LowRank:
    adapter, kind = ingredients.adapter, ingredients.layout.modules.get(module)
    first = next(iter(change.parts.values()))
    if kind is None:
        raise InvalidInput(
            f"adapter tensor {first}: {module} is not a Linear, Conv1D or Embedding of the base model"
        )
    a_part, b_part = ("lora_embedding_A", "lora_embedding_B") if kind == "embedding" else ("lora_A", "lora_B")
    extra = set(change.parts) - {a_part, b_part, "lora_magnitude_vector"}
    if extra or a_part not in change.parts or b_part not in change.parts:
        raise InvalidInput(
            f"adapter tensors of {module} (a {kind}) are {sorted(change.parts)}; expected {a_part} and "
            f"{b_part}: the adapter file is incomplete or belongs to another model"
        )
    transposed = kind != "linear"
    outputs, inputs = shape[::-1] if transposed else shape
    rank = adapter.rank(module)
    expected = {a_part: (rank, inputs), b_part: (outputs, rank), "lora_magnitude_vector": (outputs,)}
    for part, key in change.parts.items():
        if (stored := adapter.tensors.spec(key).shape) != expected[part]:
            raise _wrong_shape(
                key, stored, f"{expected[part]} for rank {rank} on {module} with weight {shape}"
            )
    magnitude = change.parts.get("lora_magnitude_vector")
    if bool(adapter.config.get("use_dora")) != bool(magnitude):
        raise InvalidInput(
            f"{CONFIG} has use_dora = {adapter.config.get('use_dora')}, but {module} has "
            f"{'a' if magnitude else 'no'} lora_magnitude_vector; the adapter is incomplete"
        )
    return LowRank(change.parts[a_part], change.parts[b_part], adapter.scale(module), transposed, magnitude)


def _resized(outputs: list[Output], ingredients: Ingredients) -> int | None:
    base, layout = ingredients.base, ingredients.layout
    ends = {f"{layout.input_embedding}.weight", f"{layout.output_embedding}.weight"}
    ends |= {layout.stored(name, base) or name for name in ends}
    rows = {output.spec.name: output.spec.shape[0] for output in outputs if output.spec.name in ends}
    before = {base.spec(output.source).shape[0] for output in outputs if output.spec.name in ends}
    if len(set(rows.values())) > 1:
        raise InvalidInput(
            f"the adapter resizes one embedding and not the other (rows: {rows}); train both "
            "(modules_to_save: the input and the output embedding) or neither"
        )
    return None if set(rows.values()) == before else next(iter(rows.values()))


def _refuse_packed(base: TensorFiles) -> None:
    for spec in base.specs():
        if spec.dtype not in FLOATS | BUFFERS or spec.name.rpartition(".")[2] in PACKED_LEAVES:
            raise InvalidInput(
                f"base tensor {spec.name} ({spec.dtype} {spec.shape}) belongs to quantized weights; an "
                "adapter is never merged into these, its tune would be lost: give the 16-bit model"
            )


def _wrong_shape(name: str, shape: tuple[int, ...], expected: str) -> InvalidInput:
    return InvalidInput(
        f"adapter tensor {name} has shape {shape}, expected {expected}; the adapter belongs to another "
        "model or revision, or was saved incomplete"
    )
