"""How far quantization usually takes a model from its parent, and what to round to for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.artifacts import QuantSpec
from stages.quantization import METHODS, method_that_made
from stages.quantization.method import Grid

LIMITS: Mapping[str, float] = {"none": 0.02} | {
    name: limit for method in METHODS for name, limit in method.limits.items()
}
"""Type → mean KL to the parent, nats per token, up to which nothing has to be asked.

About ten times what llama.cpp publishes for Llama 3 8B (PR 6936: Q8_0 0.0014, Q4_K_M 0.031, Q2_K 0.45),
because small models lose more; docs/ladder.md has what healthy lineages of small models measure. A sound file
of a smaller model, or of one with a large vocabulary, may lie above: what it may cost is then measured on the
model itself."""
UNKNOWN = 2.0
"""Of a type that has no limit: that of the fewest bits that need nothing but the weights."""


def quantization_name(quant: QuantSpec | None) -> str:
    """`gptq-4`, `Q4_K_M` or `none`: the type that a limit is given for."""
    method = method_that_made(quant)
    return "none" if method is None or quant is None else method.type_of(quant)


def grid_of(quant: QuantSpec | None) -> Grid | None:
    """What to round the parent to, for a sound file of this type to be no farther; None for 16 bits."""
    method = method_that_made(quant)
    return None if method is None or quant is None else method.grid(quant)


def beyond_usual(quant: QuantSpec | None, fidelity: Mapping[str, Any]) -> bool:
    """Whether the whole interval of the mean KL lies above what is usual for the type."""
    usual = LIMITS.get(quantization_name(quant), UNKNOWN)
    return bool(fidelity["metrics"]["kl_mean"]["low"] > usual)
