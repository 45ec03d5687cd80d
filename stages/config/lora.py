"""What can be said about an adapter's shape."""

from __future__ import annotations

from pydantic import Field

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
    dora: bool = Field(
        default=False,
        exclude_if=lambda dora: not dora,  # adapters from before keep their keys
        description="DoRA (Liu et al. 2024, arXiv:2402.09353): the length of each output's weights is "
        "trained beside their direction; for merged models, since no engine applies it beside a base",
    )
    modules_to_save: tuple[str, ...] = Field(default=(), description="modules trained and stored whole")
