"""What can be said about a merge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.contract import StageConfig


class MergeConfig(StageConfig):
    """How to merge the adapter."""

    dtype: Literal["float16", "bfloat16"] = Field(default="float16", description="dtype of the result")
    base: Literal["auto", "16bit", "nf4"] = Field(
        default="auto",
        description="`16bit`: merge into the base's own weights; `nf4`: into the base's weights after an NF4 "
        "round trip, as the adapter saw them in training (only the modules that were quantized); `auto`: a "
        "recipe does both and keeps what is better on the validation split, a single merge does `16bit`",
    )
    shard_size: int = Field(default=2_000_000_000, ge=1_000_000, description="bytes per safetensors shard")

    @property
    def candidates(self) -> tuple[MergeConfig, ...]:
        """One config per merge that is to be made."""
        if self.base != "auto":
            return (self,)
        return tuple(self.model_copy(update={"base": base}) for base in ("16bit", "nf4"))
