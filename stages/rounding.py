"""How far quantization usually takes a model from its parent, and what to round to for comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.artifacts import QuantSpec

LIMITS: Mapping[str, float] = {
    "none": 0.02, "F32": 0.01, "F16": 0.01, "BF16": 0.02, "Q8_0": 0.02, "Q6_K": 0.05,
    "Q5_K_M": 0.1, "Q5_K_S": 0.1, "Q5_1": 0.1, "Q5_0": 0.1,
    "Q4_K_M": 0.3, "Q4_K_S": 0.3, "Q4_1": 0.3, "Q4_0": 0.3, "IQ4_NL": 0.3, "IQ4_XS": 0.3,
    "Q3_K_L": 0.8, "Q3_K_M": 0.8, "Q3_K_S": 0.8, "IQ3_M": 0.8, "IQ3_S": 0.8, "Q2_K": 2.0,
    "gptq-8": 0.05, "gptq-4": 0.3, "gptq-3": 0.8, "gptq-2": 2.5,
}  # fmt: skip
"""Type → mean KL to the parent, nats per token, up to which nothing has to be asked.

About ten times what llama.cpp publishes for Llama 3 8B (PR 6936: Q8_0 0.0014, Q4_K_M 0.031, Q2_K 0.45),
because small models lose more; docs/ladder.md has what healthy lineages of small models measure. A sound file
of a smaller model, or of one with a large vocabulary, may lie above: what it may cost is then measured on the
model itself."""
GGUF_BLOCK = 32
"""Weights that share a scale in most of llama.cpp's types."""


@dataclass(frozen=True)
class Grid:
    """Symmetric rounding to nearest: `bits` per weight in groups of `group` inputs (-1: whole rows); `ends`:
    embedding and head too."""

    bits: int
    group: int
    ends: bool


def quantization_name(quant: QuantSpec | None) -> str:
    """`gptq-4`, `Q4_K_M` or `none`: the type that a limit is given for."""
    if quant is None or quant.method not in ("gptq", "gguf"):
        return "none"
    asked = quant.requested
    return f"gptq-{asked.get('bits')}" if quant.method == "gptq" else str(asked.get("type"))


def grid_of(quant: QuantSpec | None) -> Grid | None:
    """What to round the parent to, for a sound file of this type to be no farther; None for 16 bits."""
    name = quantization_name(quant)
    if quant is not None and quant.method == "gptq":
        return Grid(int(quant.requested["bits"]), int(quant.requested["group_size"]), ends=False)
    found = re.match(r"I?Q(\d)_", name)
    return Grid(int(found[1]), GGUF_BLOCK, ends=True) if found else None


def beyond_usual(quant: QuantSpec | None, fidelity: Mapping[str, Any]) -> bool:
    """Whether the whole interval of the mean KL lies above what is usual for the type."""
    usual = LIMITS.get(quantization_name(quant), LIMITS["Q2_K"])
    return bool(fidelity["metrics"]["kl_mean"]["low"] > usual)
