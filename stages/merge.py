"""Merge an adapter into 16-bit weights, on the CPU, one tensor at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from stages.contract import Facts, Parents, StageConfig

VERSION = 1
TOOLS = ("torch", "safetensors", "bitsandbytes")


class MergeConfig(StageConfig):
    """How to fold the adapter in."""

    dtype: Literal["float16", "bfloat16"] = Field(default="float16", description="dtype of the result")
    fold_into: Literal["16bit", "nf4"] = Field(
        default="16bit",
        description="`16bit`: the base's own weights; `nf4`: the base's weights after an NF4 round trip, "
        "as the adapter saw them in training (only the modules that were quantized)",
    )
    shard_size: int = Field(default=2_000_000_000, ge=1_000_000, description="bytes per safetensors shard")


def merge(parents: Parents, config: MergeConfig, out: Path) -> Facts:
    """Fold `parents["adapter"]` into `parents["base"]`; write a Hugging Face directory under `out`.

    W' = W + s·B·A in float32, then rounded to `config.dtype`; s = alpha/r, or alpha/√r with rsLoRA
    (Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732).
    Facts of kind `merged`; metrics: tensors merged, replaced, copied; largest absolute value; dtype.
    """
    raise NotImplementedError
