"""What can be said about training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from stages.contract import StageConfig


class LoraConfig(StageConfig):
    """The adapter's shape."""

    rank: int = Field(default=16, ge=1, le=1024, description="LoRA rank r")
    alpha: int = Field(default=32, ge=1, description="LoRA alpha; the update is scaled by alpha / r")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="dropout on the adapter's input")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description='"all-linear" (attention and MLP), or module name endings'
    )
    rslora: bool = Field(default=False, description="scale by alpha / sqrt(r) instead")
    modules_to_save: tuple[str, ...] = Field(default=(), description="modules trained and stored whole")


class Nf4Config(StageConfig):
    """How the base is quantized while the adapter trains."""

    quant_type: Literal["nf4"] = Field(
        default="nf4", description="always NF4; FP4 loses accuracy and is refused"
    )
    double_quant: bool = Field(default=True, description="quantize the quantization constants too")
    compute_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="type of the arithmetic; the weights are the same NF4 values, rounded to bfloat16, in "
        "either. `auto`: whichever a short measurement finds faster on this machine, decided once for a run; "
        "float32 on a GPU without bfloat16. Never float16: it overflows to NaN in training",
    )

    @field_validator("quant_type", mode="before")
    @classmethod
    def _never_fp4(cls, value: object) -> object:
        if value != "nf4":
            raise ValueError(
                f"quant_type is {value!r}; QLoRA here always uses nf4 (FP4 loses accuracy): remove the key"
            )
        return value

    @field_validator("compute_dtype", mode="before")
    @classmethod
    def _never_fp16(cls, value: object) -> object:
        if value in ("float16", "fp16"):
            raise ValueError(
                "compute_dtype float16 overflows to NaN in QLoRA training; use auto, bfloat16 or float32"
            )
        return value


class TrainConfig(StageConfig):
    """QLoRA training. The effective batch is batch_size × gradient_accumulation sequences."""

    lora: LoraConfig = Field(default_factory=LoraConfig)
    nf4: Nf4Config = Field(default_factory=Nf4Config)
    frozen_weights: Literal["auto", "packed", "dequantized"] = Field(
        default="auto",
        description="`packed` keeps NF4 in memory; `dequantized` holds the same NF4 values in the type that "
        "is computed in (same mathematics, faster on a CPU, 4 to 8 × the memory); `auto`: dequantized on a "
        "CPU, packed on CUDA",
    )
    epochs: float = Field(default=1.0, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimizer steps")
    batch_size: int = Field(default=4, ge=1, description="sequences per device and step")
    gradient_accumulation: int = Field(default=4, ge=1, description="steps before the optimizer moves")
    learning_rate: float = Field(default=2e-4, gt=0, description="peak, after the warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(default=0.3, gt=0, description="gradient clipping, as in the QLoRA paper")
    optimizer: Literal["paged_adamw_32bit", "paged_adamw_8bit", "adamw"] = Field(
        default="paged_adamw_32bit", description="paged where CUDA is; the unpaged equivalent on a CPU"
    )
    max_length: int = Field(
        default=1024, ge=8, description="tokens; a longer row is an error (prepare rejects them)"
    )
    packing: bool = Field(
        default=False,
        description="several rows per sequence; only with an attention that keeps rows apart, which is tried",
    )
    gradient_checkpointing: bool = Field(default=True, description="recompute activations (non-reentrant)")
    evaluations: int = Field(default=4, ge=0, description="validation losses during training, evenly spaced")
    checkpoint_every: int = Field(default=50, ge=1, description="optimizer steps; at most this much is lost")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of initialization, dropout and order")
