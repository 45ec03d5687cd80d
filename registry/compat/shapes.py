"""What a model and an adapter are made of, small enough for a manifest: the contract never opens weights.

Tensors that differ only in their layer's number share one entry: `model.layers.*.self_attn.q_proj.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from registry.artifacts import Record

KEY = "outline"
"""Where a manifest's metrics hold the outline."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


HEADS = frozenset({"embed_out", "lm_head", "output_projection"})
"""What families call their output embedding."""
EMBEDDINGS = frozenset({"embed_in", "embed_tokens", "tokens_embed", "word_embeddings", "wte"})
"""What they call their input embedding."""


def is_head(name: str) -> bool:
    """Whether a tensor or module is the output embedding."""
    return not HEADS.isdisjoint(name.split("."))


def is_end(name: str) -> bool:
    """Whether a tensor or module is the input or the output embedding."""
    return is_head(name) or not EMBEDDINGS.isdisjoint(name.split("."))


class TensorGroup(Record):
    """Tensors of one name (but for the layer's number), shape and dtype."""

    count: int = Field(ge=1)
    shape: tuple[int, ...]
    dtype: str


class ModelOutline(Record):
    """A model's tensors and limits."""

    context_length: int | None = Field(description="positions that the model was made for; None: not stated")
    tied: bool | None = Field(description="input and output embedding are one; None: not stated")
    tensors: dict[str, tuple[TensorGroup, ...]]


class LoraTarget(Record):
    """Low-rank pairs of one module name; `inputs` and `outputs` are widths of the module."""

    count: int = Field(ge=1)
    rank: int = Field(ge=1)
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)
    embedding: bool = False


class Nf4Recipe(Record):
    """How the base was quantized while an adapter was trained on it."""

    quant_type: str
    double_quant: bool
    compute_dtype: str

    @property
    def values(self) -> tuple[str, bool]:
        """What decides the weights' values; the arithmetic changes rounding noise alone."""
        return self.quant_type, self.double_quant


class AdapterOutline(Record):
    """A LoRA adapter's shape, in PEFT's terms."""

    rank: int = Field(ge=1, description="the largest of any module")
    alpha: float
    rslora: bool = False
    dora: bool = False
    bias: bool = Field(default=False, description="biases were trained too")
    alpha_pattern: bool = Field(default=False, description="modules differ in alpha")
    rank_pattern: bool = Field(default=False, description="modules differ in rank")
    targets: dict[str, tuple[LoraTarget, ...]]
    saved: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="tensors stored whole (modules_to_save, resized embeddings) → shape"
    )
    embedding_rows: int | None = Field(default=None, description="rows of an embedding that it brings itself")
    tokenizer_length: int | None = Field(
        default=None, description="ids of the tokenizer beside it; None: it brings none"
    )


def group(name: str) -> str:
    """`name` with every number that stands between dots as `*`."""
    return _NUMBER.sub("*", name)


def model_outline(metrics: Mapping[str, Any]) -> ModelOutline | None:
    """The outline in a manifest's metrics; None where there is none that can be read."""
    return _read(ModelOutline, metrics)


def adapter_outline(metrics: Mapping[str, Any]) -> AdapterOutline | None:
    """The outline in a manifest's metrics; None where there is none that can be read."""
    return _read(AdapterOutline, metrics)


def _read(kind: Any, metrics: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate(metrics[KEY])
    except (KeyError, ValidationError):
        return None
