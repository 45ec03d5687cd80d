"""How much of its parent each matrix of a quantized file holds: read from both, not believed.

Of a matrix W and what became of it, Ŵ: the share ⟨Ŵ, W⟩ / ⟨W, W⟩, which stays near 1 however few the bits,
and the error ‖Ŵ − W‖ / ‖W‖, beside that of rounding W to nearest with as many bits.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.backends.evaluate.open_model import dequantized, packed_gptq
from stages.backends.evaluate.rounding import rounded
from stages.backends.merge.layout import Layout, layout
from stages.backends.safetensors import model_files
from stages.contract import progress
from stages.formats.gguf import GgufTensor, read_gguf
from stages.quantization.method import Grid

SHARE = 0.5
"""Farther from 1 than this, a matrix is not its parent's; rounding to two bits takes it to about 0.9."""
ERRORS = 3.0
"""Times the error of rounding to nearest, from which a matrix is not its parent's. GPTQ moves weights to make
up for the rounding of others: to at most twice that error in the files that were measured."""
UNCHANGED = ("ffn_gate", "ffn_up", "ffn_down", "attn_output", "attn_v")
"""What llama.cpp's converters store as it is; queries and keys of some families change their order."""

Matrices = Iterable[tuple[str, torch.Tensor]]


def compare_layers(model: Path, parent: Path, grid: Grid) -> dict[str, Any] | None:
    """The matrices of a GPTQ directory, or of a GGUF file in `model`, against those of the 16-bit `parent`.

    Returns how many were `compared`, the median `error` and that of `rounding` to `grid`, and for each that
    is not its parent's (`wrong`, the worst first) `module`, `share`, `error` and `rounding`. None where no
    matrix stands in both under names that are known. Memory: the packed file, and a few times its largest
    matrix.
    """
    made, source = layout(parent), model_files(parent)
    gguf = next(iter(sorted(model.glob("*.gguf"))), None)
    found: list[dict[str, Any]] = []
    for module, weight in _of_gguf(gguf, made) if gguf else _of_gptq(model):
        name = made.stored(f"{module}.weight", source)
        if name is None:
            continue
        theirs = source.read(name).float()
        theirs = theirs.T if made.modules.get(module) == "conv1d" else theirs
        if theirs.shape == weight.shape and bool(theirs.any()):
            found.append({"module": module, **_figures(weight.float(), theirs, grid)})
            progress(len(found), len(made.modules), "matrices compared")
    if not found:
        return None
    wrong = [one for one in found if not _of_parent(one)]
    return {
        "compared": len(found),
        "error": statistics.median(one["error"] for one in found),
        "rounding": statistics.median(one["rounding"] for one in found),
        "wrong": sorted(wrong, key=lambda one: -one["error"]),
    }


def _figures(weight: torch.Tensor, parent: torch.Tensor, grid: Grid) -> dict[str, float]:
    size = float((parent * parent).sum())
    errors = (float(((other - parent) ** 2).sum() / size) ** 0.5 for other in (weight, rounded(parent, grid)))
    figures = (float((weight * parent).sum()) / size, *errors)
    return dict(zip(("share", "error", "rounding"), (round(one, 4) for one in figures), strict=True))


def _of_parent(figures: dict[str, Any]) -> bool:
    """False for what is not a number too."""
    near = abs(figures["share"] - 1) <= SHARE
    return bool(near and figures["error"] <= ERRORS * figures["rounding"])


def _of_gptq(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    network, _ = packed_gptq(folder, on_cpu=True)
    yield from ((name, weight) for name, _, weight in dequantized(network))


def _of_gguf(file: Path, made: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    """The matrices that a converter stores as they are, under the names that transformers has for them."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    described = read_gguf(file)
    architecture = described.values.get("general.architecture")
    known = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if known is None:
        return
    names = get_tensor_name_map(known, int(described.values[f"{architecture}.block_count"]))
    tensors = {tensor.name: tensor for tensor in described.tensors}
    for module in made.modules:
        name = names.get_name(module) or ""
        tensor = tensors.get(f"{name}.weight")
        if tensor is not None and name.rpartition(".")[2] in UNCHANGED and len(tensor.shape) == 2:
            yield module, _dequantized(file, tensor)


def _dequantized(file: Path, tensor: GgufTensor) -> torch.Tensor:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    stored = np.fromfile(file, np.uint8, tensor.nbytes, offset=tensor.start)
    rows = stored.reshape(tensor.shape[1], -1)
    return torch.from_numpy(np.array(dequantize(rows, GGMLQuantizationType[tensor.type]), np.float32))
