"""What can be said about training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from stages.config.lora import LoraConfig
from stages.config.train_preferences import DpoConfig, KtoConfig, OrpoConfig
from stages.contract import StageConfig


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

    method: Literal["sft", "dpo", "kto", "orpo"] = Field(
        default="sft",
        exclude_if=lambda method: method == "sft",  # adapters from before keep their keys
        description="`sft`: supervised, on the answers of the data; `dpo`: then on which of two answers is "
        "preferred, of data in `prepare.format: preferences`; `orpo`: both at once, of the same data; `kto`: "
        "supervised, then on answers that are each called good or bad, of `format: unpaired-preferences`",
    )
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
    early_stopping: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda patience: patience is None,  # adapters from before keep their keys
        description="stop after so many validation losses in a row that are not below the best one, and keep "
        "the adapter of the best; without it the last one is kept. Of both trainings of `dpo` and `kto`",
    )
    checkpoint_every: int = Field(default=50, ge=1, description="optimizer steps; at most this much is lost")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of initialization, dropout and order")
    loraplus_lr_ratio: float | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda ratio: ratio is None,  # adapters from before keep their keys
        description="LoRA+ (Hayou et al. 2024, arXiv:2402.12354): the learning rate of B over that of A, "
        "such as 16; `learning_rate` is that of A and wants to be lower",
    )
    neftune_noise_alpha: float | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda alpha: alpha is None,
        description="NEFTune (Jain et al. 2023, arXiv:2310.05914): in supervised training and ORPO each "
        "number of the token embeddings gets uniform noise of up to alpha / sqrt(tokens · width), such as 5",
    )
    dpo: DpoConfig = Field(
        default_factory=DpoConfig,
        exclude_if=lambda dpo: dpo == DpoConfig(),
        description="how `method: dpo` trains",
    )
    kto: KtoConfig = Field(
        default_factory=KtoConfig,
        exclude_if=lambda kto: kto == KtoConfig(),
        description="how `method: kto` trains",
    )
    orpo: OrpoConfig = Field(
        default_factory=OrpoConfig,
        exclude_if=lambda orpo: orpo == OrpoConfig(),
        description="how `method: orpo` trains",
    )

    @model_validator(mode="after")
    def _nothing_is_left_out(self) -> TrainConfig:
        for name in ("dpo", "kto", "orpo"):
            if self.method != name and getattr(self, name) != type(getattr(self, name))():
                raise ValueError(
                    f"{name} is how that method trains, and method is {self.method}: set method: {name}, or "
                    "take it out"
                )
        if self.early_stopping is not None and self.early_stopping > self.evaluations:
            raise ValueError(
                f"early_stopping is {self.early_stopping}, but {self.evaluations} validation losses "
                "come before the last: nothing could be stopped; set evaluations higher, or take it out"
            )
        if self.method == "orpo" and self.packing:
            raise ValueError("packing is true, and method: orpo packs no pairs: take packing out")
        held = self.held_to_start
        if self.neftune_noise_alpha is not None and held is not None and held.start != "sft":
            raise ValueError(
                f"neftune_noise_alpha is for supervised training, which {self.method}.start leaves out: take "
                f"it out ({self.method} has none, or the model would differ from its reference)"
            )
        return self

    @property
    def held_to_start(self) -> DpoConfig | KtoConfig | None:
        """The settings of a method that trains an adapter further, and holds it against what it was."""
        if self.method == "dpo":
            return self.dpo
        return self.kto if self.method == "kto" else None

    @property
    def trainings(self) -> tuple[TrainConfig, ...]:
        """What a run trains, one after the other; each goes on from the adapter of the one before."""
        if self.held_to_start is not None and self.held_to_start.start == "sft":
            supervised = {"method": "sft", "dpo": DpoConfig(), "kto": KtoConfig()}
            return self.model_copy(update=supervised), self
        return (self,)

    @property
    def goes_on(self) -> bool:
        """Whether it trains an adapter further, rather than a fresh one."""
        return self.held_to_start is not None and self.held_to_start.start != "base"

    @property
    def named_start(self) -> str | None:
        """What it calls an adapter of the registry to go on from; None where it names none."""
        start = self.held_to_start.start if self.held_to_start is not None else "base"
        return None if start in ("sft", "base") else start

    @property
    def section(self) -> str:
        """Where a recipe says how many rows a step has, and how fast it moves."""
        return "train" if self.held_to_start is None else f"train.{self.method}"

    def validated_at(self, steps: int) -> list[int]:
        """Of so many optimizer steps those after which the validation loss is taken; the last one is among
        them."""
        parts = self.evaluations + 1
        return sorted({max(1, round(steps * k / parts)) for k in range(1, parts)} | {steps})

    @property
    def label(self) -> str:
        """What a run calls this step."""
        return "train adapter" if self.method == "sft" else "train on preferences"

    @property
    def as_run(self) -> TrainConfig:
        """The same with the settings of its method under their usual names; rows are pairs, but for `sft` and
        `kto`."""
        if self.method == "sft":
            return self
        known = {name: value for name, value in self.held_to_start or () if name in TrainConfig.model_fields}
        noise = self.neftune_noise_alpha if self.method == "orpo" else None
        return self.model_copy(update={**known, "packing": False, "neftune_noise_alpha": noise})

    @property
    def compares(self) -> bool:
        """Whether a row that it trains on is two answers to one prompt."""
        return self.method in ("dpo", "orpo")

    @property
    def sequences(self) -> int:
        """Sequences that a step reads at once."""
        return (2 if self.compares else 1) * self.as_run.batch_size
