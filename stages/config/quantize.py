"""What can be said about a quantization."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.contract import StageConfig

GGUF_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1",
    "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "Q2_K",
)  # fmt: skip
"""llama.cpp's file types that need nothing but the weights, from the most to the fewest bits."""

NEED_IMATRIX = ("IQ3_XS", "IQ3_XXS", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
"""File types that llama.cpp refuses without an importance matrix."""


class GptqConfig(StageConfig):
    """GPTQ through GPTQModel (checkpoint format `gptq`)."""

    method: Literal["gptq"] = "gptq"
    bits: Literal[2, 3, 4, 8] = Field(default=4, description="per weight, without scales")
    group_size: Literal[32, 64, 128, -1] = Field(default=128, description="weights per scale; -1: per column")
    desc_act: bool = Field(default=False, description="quantize columns by decreasing activation")
    damp_percent: float = Field(default=0.05, gt=0, lt=1, description="first rung of the damping ladder")
    calibration_rows: int = Field(default=128, ge=1, description="chat-templated rows of the training split")
    dtype: Literal["float16", "bfloat16"] = Field(
        default="float16", description="dtype of scales and of the tensors that stay unquantized"
    )
    compute_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="type in which the calibration rows pass through the layers on a CPU: float32, or with "
        "bfloat16 the type of `dtype`; `auto`: the run's answer, as for `train.nf4.compute_dtype`",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the choice of calibration rows")

    @property
    def label(self) -> str:
        return f"gptq-{self.bits}bit"


class GgufConfig(StageConfig):
    """GGUF through llama.cpp's own converter and quantizer, both of one commit."""

    method: Literal["gguf"] = "gguf"
    type: str = Field(
        default="Q4_K_M", description="a llama.cpp file type: F16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, …"
    )

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        return check_gguf_type(value)

    @property
    def label(self) -> str:
        return f"gguf-{self.type.lower()}"


QuantizeConfig = Annotated[GptqConfig | GgufConfig, Field(discriminator="method")]


def check_gguf_type(name: str) -> str:
    """`name` in llama.cpp's own spelling. Raises ValueError with the nearest and all valid names."""
    upper = name.upper()
    if upper in GGUF_TYPES:
        return upper
    if upper in NEED_IMATRIX:
        raise ValueError(
            f"the GGUF type {name!r} needs an importance matrix, which is not computed here; "
            f"use one of {', '.join(GGUF_TYPES)}"
        )
    near = difflib.get_close_matches(upper, GGUF_TYPES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"llama.cpp has no GGUF type {name!r}; {hint}expected one of {', '.join(GGUF_TYPES)}")
