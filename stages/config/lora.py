"""What can be said about an adapter's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from stages.contract import StageConfig

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_OTHER_BASE = (
    "take a product of factors out of the base's weights before they are quantized: the adapter then belongs "
    "to another NF4 base than the one that the registry has, that adapters share and that the tune is "
    "measured against, and PEFT's conversion to an ordinary adapter fits the 16-bit base alone"
)
_REFUSED = {
    "init_lora_weights": f"PiSSA and LoftQ {_OTHER_BASE}. Take it out: B begins at 0 here; "
    "train.loraplus_lr_ratio also makes it learn faster",
    "loftq_config": f"PiSSA and LoftQ {_OTHER_BASE}. Take it out",
    "trainable_token_indices": "single rows of the embedding are not trained: GGUF adapters and vLLM have no "
    "place for them, and new tokens need a tokenizer and an embedding of their own in each file. Add the "
    "tokens to the base, and train its embedding whole with modules_to_save, where the base is not tied",
    "layers_to_transform": "which layers get an adapter is said by train.lora.layers, such as [0-7, 12]",
    "layers_pattern": "train.lora.layers counts the blocks of any family; take it out",
    "exclude_modules": "say which modules get an adapter: target_modules, layers and pattern",
    "rank_pattern": "all modules have one rank here; take it out",
    "alpha_pattern": "all modules have one alpha here; take it out",
}
"""Settings of PEFT that people know, and why they are not here."""


class LoraConfig(StageConfig):
    """The adapter's shape."""

    rank: int = Field(default=16, ge=1, le=1024, description="LoRA rank r")
    alpha: int = Field(default=32, ge=1, description="LoRA alpha; the update is scaled by alpha / r")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="dropout on the adapter's input")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description='"all-linear" (attention and MLP), or module name endings'
    )
    layers: tuple[int | str, ...] | None = Field(
        default=None,
        exclude_if=lambda layers: layers is None,  # adapters from before keep their keys
        description="blocks whose modules get an adapter, counted from 0: numbers and ranges, such as "
        "`[0, 8-15]`; all of them without it",
    )
    pattern: str | None = Field(
        default=None,
        exclude_if=lambda pattern: pattern is None,
        description="regular expression that the whole name of a module has to match to get an adapter, such "
        "as `.*self_attn.*`; all that the keys before name without it",
    )
    rslora: bool = Field(default=False, description="scale by alpha / sqrt(r) instead")
    dora: bool = Field(
        default=False,
        exclude_if=lambda dora: not dora,  # adapters from before keep their keys
        description="DoRA (Liu et al. 2024, arXiv:2402.09353): the length of each output's weights is "
        "trained beside their direction; for merged models, since no engine applies it beside a base",
    )
    modules_to_save: tuple[str, ...] = Field(default=(), description="modules trained and stored whole")

    @model_validator(mode="before")
    @classmethod
    def _what_is_not_trained(cls, given: Any) -> Any:
        names = given if isinstance(given, Mapping) else {}
        if found := next((name for name in _REFUSED if name in names), None):
            raise ValueError(f"{found}: {_REFUSED[found]}")
        return given

    @field_validator("layers")
    @classmethod
    def _ranges(cls, layers: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        for entry in layers or ():
            ends = _RANGE.fullmatch(str(entry))
            if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
                raise ValueError(f"layers: {entry!r} is not a block or a range of blocks, such as 3 or 8-15")
        if layers == ():
            raise ValueError("layers: [] leaves no block; name some, or take it out")
        return layers

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"pattern: not a regular expression ({error})") from None
        return pattern

    @property
    def blocks(self) -> frozenset[int] | None:
        """The numbers that `layers` says; None where all are meant."""
        if self.layers is None:
            return None
        ends = [str(entry).partition("-") for entry in self.layers]
        return frozenset(n for first, _, last in ends for n in range(int(first), int(last or first) + 1))

    def meant(self, name: str) -> bool:
        """Whether `layers` and `pattern` let the module of this whole name have an adapter."""
        blocks, number = self.blocks, block_of(name)
        inside = blocks is None or number in blocks
        return inside and (self.pattern is None or re.fullmatch(self.pattern, name) is not None)


def block_of(name: str) -> int | None:
    """The number of the block that a module lies in, of its whole name; None outside of all."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)
