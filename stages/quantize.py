"""Quantize a merged model for serving: GPTQ or GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stages.contract import Facts, Parents, StageConfig

VERSION = 1
TOOLS = ("torch", "transformers", "gptqmodel", "llama-cpp-python", "gguf")


class GptqConfig(StageConfig):
    """GPTQ through GPTQModel (checkpoint format `gptq`)."""

    method: Literal["gptq"] = "gptq"
    bits: Literal[2, 3, 4, 8] = 4
    group_size: Literal[32, 64, 128, -1] = Field(default=128, description="weights per scale; -1: per column")
    desc_act: bool = Field(default=False, description="quantize columns by decreasing activation")
    damp_percent: float = Field(default=0.05, gt=0, lt=1, description="first rung of the damping ladder")
    calibration_rows: int = Field(default=128, ge=1, description="chat-templated rows of the training split")
    seed: int = Field(default=0, ge=0)

    @property
    def label(self) -> str:
        return f"gptq-{self.bits}bit"


class GgufConfig(StageConfig):
    """GGUF through llama.cpp's own converter and quantizer, both of one commit."""

    method: Literal["gguf"] = "gguf"
    type: str = Field(default="Q4_K_M", description="a llama.cpp file type: F16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, …")

    @property
    def label(self) -> str:
        return f"gguf-{self.type.lower()}"


QuantizeConfig = Annotated[GptqConfig | GgufConfig, Field(discriminator="method")]


def quantize(parents: Parents, config: GptqConfig | GgufConfig, out: Path) -> Facts:
    """Quantize `parents["model"]` (merged or base); write a GPTQ directory or `model.gguf` under `out`.

    GPTQ calibrates on `parents["dataset"]`. Facts of kind `quantized`, with the requested and the
    effective config: bits per weight, tensors per type, fallbacks, dtype, per-layer loss (GPTQ).
    """
    raise NotImplementedError
