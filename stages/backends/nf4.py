"""Base weights in NF4 (QLoRA, Dettmers et al. 2023, arXiv:2305.14314): loaded, checked, kept from corruption.

A `Linear4bit` that runs once in eval mode without gradients on an AVX512-BF16 CPU changes its weights to
a layout whose kernel has no backward pass; training goes on and its gradients are wrong. Every model that
`load_nf4` returns refuses that change module by module, and `require_not_repacked` proves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypedDict

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from stages.backends.arithmetic import effective
from stages.config.train import Nf4Config
from stages.errors import InvalidInput, StageError

VALUES = torch.bfloat16
"""Weights are rounded to this before they are quantized, NF4 values after, whatever computes with them."""
BLOCK_SIZE = 64
"""Weights per absmax constant; with double quantization 256 of those constants share one of their own."""

Frozen = Literal["packed", "dequantized"]


def load_nf4(base: Path, nf4: Nf4Config, frozen: Frozen = "packed") -> PreTrainedModel:
    """The causal language model in `base`, its linear layers but the output head in NF4.

    `packed` keeps `Linear4bit` modules (0.5 bytes per weight), `dequantized` puts frozen linear layers of
    the compute dtype in their place that hold bitsandbytes' own dequantized values. Embedding, norms and
    head are held in the compute dtype. All values are bfloat16 numbers, whatever the compute dtype. Raises
    `InvalidInput` when there is no linear layer to quantize and `StageError` when a layer did not come out
    as asked.
    """
    dtype = effective(nf4.compute_dtype)
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=VALUES,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=nf4.quant_type,
            bnb_4bit_use_double_quant=nf4.double_quant,
            bnb_4bit_compute_dtype=dtype,
        ),
        local_files_only=True,
        trust_remote_code=False,
    )
    require_nf4(model, nf4)
    refuse_repacking(model)
    _widen_the_rest(model, dtype)
    if frozen == "dequantized":
        dequantize_in_place(model)
    return model


def _widen_the_rest(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold whatever is not quantized in `dtype`, which represents every bfloat16 value exactly."""
    packed = {id(module.weight) for _, module in quantized_modules(model)}
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.dtype == VALUES and id(tensor) not in packed:
            tensor.data = tensor.data.to(dtype)


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, bnb.nn.Linear4bit]]:
    """Name and module of every 4-bit layer."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit))


def require_nf4(model: PreTrainedModel, nf4: Nf4Config) -> None:
    """Raise unless every linear layer but the output head really is NF4, double-quantized as asked."""
    head = model.get_output_embeddings()
    plain = [
        name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head
    ]
    wrong = []
    for name, module in quantized_modules(model):
        state = module.weight.quant_state
        layout = None if state is None else (state.quant_type, bool(state.nested), state.blocksize)
        if layout != ("nf4", nf4.double_quant, BLOCK_SIZE):
            wrong.append(f"{name}: {layout}")
    if plain or wrong:
        raise StageError(
            f"the base was not quantized as asked: expected (nf4, double quantization {nf4.double_quant}, "
            f"blocks of {BLOCK_SIZE}) in every linear layer; not quantized: {plain[:3] or 'none'}, "
            f"different: {wrong[:3] or 'none'}; transformers or bitsandbytes changed: use the locked versions"
        )
    if not any(True for _ in quantized_modules(model)):
        raise InvalidInput(
            f"{type(model).__name__} has no linear layer to quantize, so it cannot be trained with QLoRA; "
            "choose a base built from torch.nn.Linear layers"
        )


def refuse_repacking(model: nn.Module) -> None:
    """Keep each `Linear4bit` in the layout that has a backward pass, whatever mode it runs in."""
    for _, module in quantized_modules(model):
        module.support_avx512bf16_for_cpu = False


def repacked_modules(model: nn.Module) -> list[str]:
    """Names of the quantized layers whose weights are in the inference-only CPU layout."""
    return [
        name
        for name, module in quantized_modules(model)
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False)
    ]


def require_not_repacked(model: nn.Module) -> None:
    """Raise `StageError` when gradients through this model would be wrong from now on."""
    repacked = repacked_modules(model)
    if repacked:
        raise StageError(
            f"{len(repacked)} NF4 layers ({repacked[0]}, …) were repacked for inference by an evaluation; "
            "training would follow wrong gradients, so it stops: set train.frozen_weights: dequantized"
        )


def dequantize_in_place(model: nn.Module) -> None:
    """Replace each `Linear4bit` by a frozen `Linear` of its compute dtype with the same values."""
    for name, module in list(quantized_modules(model)):
        weight = values(module, module.compute_dtype)
        with torch.device("meta"):
            plain = nn.Linear(module.in_features, module.out_features, bias=False)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            plain.bias = nn.Parameter(module.bias.data.to(module.compute_dtype), requires_grad=False)
        model.set_submodule(name, plain)


def values(layer: nn.Linear, dtype: torch.dtype) -> torch.Tensor:
    """The weight of a layer (out, in) in `dtype`, also of one that is in NF4."""
    if isinstance(layer, bnb.nn.Linear4bit):
        unpacked: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return unpacked.to(dtype)
    return layer.weight.to(dtype)


def nf4_round_trip(weight: torch.Tensor, nf4: Nf4Config) -> torch.Tensor:
    """What `load_nf4` makes of a layer's stored `weight` (out, in): its NF4 values, in bfloat16."""
    packed, state = quantize_4bit(
        weight.to(VALUES).contiguous(),
        blocksize=BLOCK_SIZE,
        compress_statistics=nf4.double_quant,
        quant_type=nf4.quant_type,
    )
    values: torch.Tensor = dequantize_4bit(packed, state)
    return values


class PackedLayers(TypedDict):
    """What the layers in NF4 hold."""

    layers: int
    weights: int
    bits_per_weight: float


def effective_quantization(model: nn.Module) -> PackedLayers:
    """What the `packed` quantized layers hold, measured."""
    weights = stored = layers = 0
    for _, module in quantized_modules(model):
        state = module.weight.quant_state
        layers += 1
        weights += state.shape.numel()
        stored += module.weight.nbytes + state.absmax.nbytes
        if state.nested:
            stored += state.state2.absmax.nbytes
    return {"layers": layers, "weights": weights, "bits_per_weight": round(8 * stored / max(weights, 1), 3)}
