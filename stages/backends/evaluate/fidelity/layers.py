"""How much of its parent each matrix of a quantized file holds: read from both, not believed.

Of a matrix W and what became of it, Ŵ: the share ⟨Ŵ, W⟩ / ⟨W, W⟩, which stays near 1 however few the bits,
and the error ‖Ŵ − W‖ / ‖W‖, beside that of rounding W to nearest with as many bits.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from registry.evaluation_figures import LayerComparison, MatrixDifference
from stages.backends.evaluate.fidelity.rounding import rounded
from stages.backends.gptq.load import dequantized, packed_gptq
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


def compare_layers(model: Path, parent: Path, grid: Grid) -> LayerComparison | None:
    """The matrices of a GPTQ directory, or of a GGUF file in `model`, against those of the 16-bit `parent`.

    Returns how many were `compared`, the median `error` and that of `rounding` to `grid`, and for each that
    is not its parent's (`wrong`, the worst first) `module`, `share`, `error` and `rounding`. None where no
    matrix stands in both under names that are known. Memory: the packed file, and a few times its largest
    matrix.
    """
    made, source = layout(parent), model_files(parent)
    gguf = next(iter(sorted(model.glob("*.gguf"))), None)
    compared: list[MatrixDifference] = []
    for module, weight in _of_gguf(gguf, made) if gguf else _of_gptq(model):
        name = made.stored(f"{module}.weight", source)
        if name is None:
            continue
        theirs = source.read(name).float()
        theirs = theirs.T if made.modules.get(module) == "conv1d" else theirs
        if theirs.shape == weight.shape and bool(theirs.any()):
            compared.append(_difference(module, weight.float(), theirs, grid))
            progress(len(compared), len(made.modules), "matrices compared")
    if not compared:
        return None
    wrong = [matrix for matrix in compared if not _of_parent(matrix)]
    return {
        "compared": len(compared),
        "error": statistics.median(matrix["error"] for matrix in compared),
        "rounding": statistics.median(matrix["rounding"] for matrix in compared),
        "wrong": sorted(wrong, key=lambda matrix: -matrix["error"]),
    }


def _difference(module: str, weight: torch.Tensor, parent: torch.Tensor, grid: Grid) -> MatrixDifference:
    size = float((parent * parent).sum())
    share = float((weight * parent).sum()) / size
    error, rounding = (
        float(((other - parent) ** 2).sum() / size) ** 0.5 for other in (weight, rounded(parent, grid))
    )
    return {
        "module": module,
        "share": round(share, 4),
        "error": round(error, 4),
        "rounding": round(rounding, 4),
    }


def _of_parent(matrix: MatrixDifference) -> bool:
    """False for what is not a number too."""
    return abs(matrix["share"] - 1) <= SHARE and matrix["error"] <= ERRORS * matrix["rounding"]


def _of_gptq(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    network, _ = packed_gptq(folder, on_cpu=True)
    yield from ((name, weight) for name, _, weight in dequantized(network))


def _of_gguf(file: Path, made: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    """The matrices that a converter stores as they are, under the names that transformers has for them."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    described = read_gguf(file)
    architecture = described.values.get("general.architecture")
    arch_id = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if arch_id is None:
        return
    names = get_tensor_name_map(arch_id, int(described.values[f"{architecture}.block_count"]))
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
