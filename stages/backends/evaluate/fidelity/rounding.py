"""What rounding a model's weights to nearest costs it: the upper reference for as many bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from registry.evaluation_figures import RoundingCost
from stages.backends.evaluate.fidelity.distances import Chats, LogProbabilities, compare, summarize
from stages.backends.evaluate.torch_lm import TorchLM
from stages.quantization.method import Grid


def rounding_cost(parent: TorchLM, chats: Chats, vocabulary: int, grid: Grid, out: Path) -> RoundingCost:
    """KL(parent ‖ parent rounded) on `chats`, as `summarize` gives it; `parent` stays rounded."""
    folder = out / ".rounding"
    folder.mkdir()
    try:
        with LogProbabilities(parent, chats, vocabulary, folder) as exact:
            round_to_nearest(parent.model, grid)
            parent.forget()
            distances = summarize(compare(exact, parent, other_is_reference=False))
    finally:
        shutil.rmtree(folder)
    kl = distances["metrics"]["kl_mean"]
    return {"bits": grid.bits, "group_size": grid.group, "ends": grid.ends, "kl_mean": kl}


@torch.no_grad()
def round_to_nearest(network: Any, grid: Grid) -> None:
    """Every matrix in place, symmetric, one scale per group of inputs (or row that groups do not divide)."""
    both = (network.get_input_embeddings(), network.get_output_embeddings())
    ends = {id(end.weight) for end in both if end is not None}
    done: set[int] = set()
    for path, module in network.named_modules():
        if ".lora_" in path:
            continue  # an adapter apart is not rounded
        for weight in module.parameters(recurse=False):
            if weight.dim() < 2 or id(weight) in done or (id(weight) in ends and not grid.ends):
                continue
            if isinstance(module, nn.Embedding) and id(weight) not in ends:
                continue  # positions, which stay as they are
            done.add(id(weight))
            rows = weight.data.T if isinstance(module, Conv1D) else weight.data
            rows.copy_(rounded(rows, grid))


def rounded(rows: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A matrix (outputs, inputs) on the grid, in its own type."""
    inputs = rows.shape[-1]
    group = grid.group if grid.group > 0 and inputs % grid.group == 0 else inputs
    grouped = rows.float().reshape(-1, group)
    high = 2 ** (grid.bits - 1)
    scale = (grouped.abs().amax(dim=-1, keepdim=True) / (high - 0.5)).clamp(min=1e-12)
    return ((grouped / scale).round().clamp(-high, high - 1) * scale).reshape(rows.shape).to(rows.dtype)
