"""What a model is made of, learnt from its config alone: of a table, or built on torch's meta device."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from stages.errors import InvalidInput
from stages.families.blocks import ATTENTION, LLAMA
from stages.formats.model_directory import ModelConfig, ModelDirectory

PLAIN = frozenset(["llama", "mistral", "qwen2", "qwen3", "granite", "olmo2", "smollm3"])
"""Families of one and the same modules; a test holds `plain_layout` of each against what is built.

Building one takes transformers, whose import is longer and larger than the merge of a small model.
"""

ModuleKind = Literal["linear", "conv1d", "embedding"]


@dataclass(frozen=True)
class Layout:
    """Modules, ties and NF4 candidates of one architecture; all names as the model has them."""

    modules: dict[str, ModuleKind]
    tied: dict[str, str]
    """Name of a tied tensor → the tensor it shares, e.g. lm_head.weight → model.embed_tokens.weight."""
    quantized: frozenset[str]
    """Modules that bitsandbytes packs into NF4 when transformers loads the model in 4 bit."""
    input_embedding: str
    output_embedding: str
    prefix: str
    """Some checkpoints leave out the name of the inner model (GPT-2: `h.0…` for `transformer.h.0…`)."""
    keep_float32: tuple[str, ...]
    keep_float32_from_float16: tuple[str, ...]

    def stored(self, name: str, tensors: Container[str]) -> str | None:
        """The name under which the checkpoint `tensors` holds the model's tensor `name`, if it does."""
        for candidate in (name, name.removeprefix(f"{self.prefix}.")):
            if candidate in tensors:
                return candidate
        return None

    def stays_float32(self, name: str, dtype: str) -> bool:
        """Whether transformers loads this tensor as float32 even in a 16-bit model (routers, some norms)."""
        parts = self.keep_float32 + (self.keep_float32_from_float16 if dtype == "float16" else ())
        return any(re.search(rf"(^|\.){part}(\.|$)", name) for part in parts)


def layout(directory: Path) -> Layout:
    """Read `config.json` of a causal language model.

    Raises `InvalidInput` for an architecture that transformers does not know; code shipped with a
    model is never run.
    """
    config = ModelDirectory(directory).config
    return plain_layout(config) or built_layout(directory)


def plain_layout(config: ModelConfig) -> Layout | None:
    """The layout of a model of one of the families in `PLAIN`.

    None for others, and where `config.json` leaves its number of layers, or whether the embeddings are tied,
    to transformers' defaults.
    """
    layers, tied = config.get("num_hidden_layers"), config.get("tie_word_embeddings")
    if config.get("model_type") not in PLAIN or type(layers) is not int or not isinstance(tied, bool):
        return None
    linear = frozenset(
        f"model.layers.{number}.{'self_attn' if name in ATTENTION else 'mlp'}.{name}"
        for number in range(layers)
        for name in LLAMA
    )
    kinds: dict[str, ModuleKind] = {"model.embed_tokens": "embedding", "lm_head": "linear"}
    return Layout(
        modules=kinds | dict.fromkeys(linear, "linear"),
        tied={"lm_head.weight": "model.embed_tokens.weight"} if tied else {},
        quantized=linear,
        input_embedding="model.embed_tokens",
        output_embedding="lm_head",
        prefix="model",
        keep_float32=(),
        keep_float32_from_float16=(),
    )


def built_layout(directory: Path) -> Layout:
    """What transformers builds for `config.json`; raises as `layout`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise InvalidInput(
            f"{directory}/config.json does not describe a causal language model that transformers can build: "
            f"{error}"
        ) from error
    names = {id(module): name for name, module in model.named_modules()}
    return Layout(
        modules={name: kind for name, module in model.named_modules() if (kind := _kind(module))},
        tied=dict(model.all_tied_weights_keys),
        quantized=_quantized(model),
        input_embedding=names.get(id(model.get_input_embeddings()), ""),
        output_embedding=names.get(id(model.get_output_embeddings()), ""),
        prefix=model.base_model_prefix,
        keep_float32=tuple(model._keep_in_fp32_modules_strict or ()),
        keep_float32_from_float16=tuple(model._keep_in_fp32_modules or ()),
    )


def _kind(module: torch.nn.Module) -> ModuleKind | None:
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, torch.nn.Linear):
        return "linear"
    if isinstance(module, Conv1D):
        return "conv1d"
    return "embedding" if isinstance(module, torch.nn.Embedding) else None


def _quantized(model: torch.nn.Module) -> frozenset[str]:
    """The rule of transformers' bitsandbytes quantizer: Linear and Conv1D, less head, ties and float32."""
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    return frozenset(
        name
        for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D))
        and should_convert_module(name, skipped)
    )
