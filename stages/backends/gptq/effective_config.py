"""What is recorded of a GPTQ model: of each module, and in its manifest."""

from __future__ import annotations

from typing import Literal, TypedDict


class QuantizedModule(TypedDict):
    """A row of `gptq_layers.json`; no `loss` where GPTQ could not be done."""

    layer: int
    module: str
    loss: float | None
    samples: int
    damp: float


class Losses(TypedDict):
    """What happened over all modules."""

    modules: int
    loss_by_layer: list[float]
    damping_raised: dict[str, float]
    fallbacks: list[str]


class Sizes(TypedDict):
    """How large the weights are; `types`: dtype → tensors."""

    types: dict[str, int]
    parameters: int
    bytes: int
    bits_per_weight: float
    packed_bits_per_weight: float
    tied_head: Literal["repeated", "stored", "absent"]


class EffectiveGptq(Losses, Sizes):
    """The effective config of a GPTQ model."""

    format: Literal["gptq"]
    sym: bool
    bits: int
    group_size: int
    desc_act: bool
    dtype: str
    compute_dtype: str
    calibration: dict[str, int | str]
