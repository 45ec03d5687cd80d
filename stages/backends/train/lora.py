"""Put a LoRA adapter on exactly the layers that were meant, and store it so that others can use it."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import peft
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from registry.artifacts import BaseReference
from registry.compat.peft import CONFIG
from stages.config.lora import LoraConfig, block_of
from stages.errors import InvalidInput, StageError

_PLAIN = ("rank_pattern", "alpha_pattern", "layers_to_transform", "trainable_token_indices")
"""Settings of PEFT that no adapter trained here has."""


def target_layers(model: PreTrainedModel, target_modules: str | tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that get an adapter: all but the output head, or those that end so.

    Raises `InvalidInput` with the nearest names when an ending matches no linear layer.
    """
    head = model.get_output_embeddings()
    linear = [name for name, layer in model.named_modules() if is_linear(layer) and layer is not head]
    if target_modules == "all-linear":
        return linear
    endings = (target_modules,) if isinstance(target_modules, str) else target_modules
    chosen: set[str] = set()
    for ending in endings:
        matches = {name for name in linear if f".{name}".endswith(f".{ending}")}
        if not matches:
            raise InvalidInput(_no_such_layer(model, ending, linear))
        chosen |= matches
    return [name for name in linear if name in chosen]


def adapted_layers(model: PreTrainedModel, config: LoraConfig) -> list[str]:
    """Full names of the linear layers that get an adapter: those that all of `target_modules`, `layers` and
    `pattern` name. Raises `InvalidInput` as `target_layers` does, and where a block is beyond the last one or
    nothing is left."""
    linear = target_layers(model, config.target_modules)
    last = max((number for name in linear if (number := block_of(name)) is not None), default=-1)
    if config.blocks is not None and max(config.blocks) > last:
        raise InvalidInput(
            f"train.lora.layers: {max(config.blocks)} is beyond the last block of {type(model).__name__}, "
            f"which has {last + 1}, counted from 0; name others"
        )
    chosen = [name for name in linear if config.meant(name)]
    if linear and not chosen:
        key = "layers" if config.pattern is None else "pattern"
        raise InvalidInput(
            f"train.lora.{key}: leaves no module to put an adapter on; the whole name of one is {linear[0]}"
        )
    return chosen


def is_linear(layer: nn.Module) -> bool:
    """Whether transformers packs this into NF4, or has: GPT-2's `Conv1D` too, but no class made from `Linear`
    (Falcon's layers, PhiMoE's router), whose arithmetic is its own."""
    return type(layer) in (nn.Linear, Conv1D) or isinstance(layer, Linear4bit)


def _no_such_layer(model: PreTrainedModel, ending: str, linear: list[str]) -> str:
    short = sorted({name.rpartition(".")[2] for name in linear})
    other = [n for n, _ in model.named_modules() if n and f".{n}".endswith(f".{ending}")]
    if other:
        return (
            f"train.lora.target_modules: {ending!r} is {other[0]}, which is not a linear layer of attention "
            f'or MLP; expected among {", ".join(short)}, or "all-linear"; modules_to_save trains others whole'
        )
    near = difflib.get_close_matches(ending, short, n=3, cutoff=0.4) or short
    return (
        f"train.lora.target_modules: {ending!r} matches no layer of {type(model).__name__}; "
        f'nearest: {", ".join(near)}; or use "all-linear"'
    )


def attach(model: PreTrainedModel, config: LoraConfig, seed: int) -> peft.PeftModel:
    """Wrap `model` with a fresh adapter (float32, B = 0) whose A is drawn from `seed`.

    Raises `InvalidInput` when a name in the configuration matches nothing, `StageError` when PEFT chose
    other layers than those.
    """
    layers = adapted_layers(model, config)
    check_saved_modules(model, config.modules_to_save)
    torch.manual_seed(seed)
    wrapped = peft.get_peft_model(
        model,
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            use_rslora=config.rslora,
            use_dora=config.dora,
            target_modules=_short_names(model, layers),
            modules_to_save=list(config.modules_to_save) or None,
        ),
    )
    wrapped_layers = [name for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    if sorted(wrapped_layers) != sorted(layers):
        odd = sorted(set(wrapped_layers) ^ set(layers))
        raise StageError(
            f"PEFT put adapters on other layers than asked for: {', '.join(odd[:5])}; please report this"
        )
    return wrapped


def attach_trained(model: PreTrainedModel, adapter: Path, config: LoraConfig, key: str) -> peft.PeftModel:
    """Wrap `model` with the PEFT adapter in `adapter`, to be trained further, in float32.

    `key`: what of a recipe names the adapter.
    Raises `InvalidInput` where it is not a LoRA adapter of the shape that `config` asks for, on those layers.
    """
    file = adapter / CONFIG
    if not file.is_file():
        raise InvalidInput(
            f"{key}: the adapter has no {CONFIG}, so it is not in PEFT's format, the only one "
            "that can be trained further; give one that was trained"
        )
    settings: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if differing := _differing(settings, config):
        raise InvalidInput(
            f"{key}: the adapter has {', '.join(differing)}; make train.lora the same, or give "
            "another adapter"
        )
    layers = adapted_layers(model, config)
    wrapped = peft.PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    # where the base lies, as for a fresh adapter: checkpoints look there for its vocabulary
    wrapped.peft_config["default"].base_model_name_or_path = model.name_or_path
    wrapped_layers = [name for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    if odd := sorted(set(wrapped_layers) ^ set(layers)):
        raise InvalidInput(
            f"{key}: the adapter is on other layers than train.lora.target_modules, layers and pattern name: "
            f"{', '.join(odd[:5])}; make them the same, or give another adapter"
        )
    return wrapped


def _differing(settings: dict[str, Any], config: LoraConfig) -> list[str]:
    """What of an adapter's settings is not as `config` says, in words."""
    asked = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "modules_to_save": sorted(config.modules_to_save),
        **dict.fromkeys(_PLAIN),
    }
    found = {name: settings.get(name) or None for name in asked}
    found["modules_to_save"] = sorted(settings.get("modules_to_save") or ())
    found |= {name: bool(settings.get(name)) for name in ("use_rslora", "use_dora")}
    wrong = {name: value for name, value in asked.items() if found[name] != value}
    return [f"{name} {found[name]!r} and not {value!r}" for name, value in wrong.items()]


def _short_names(model: PreTrainedModel, layers: list[str]) -> list[str]:
    """The endings of `layers` where they mean exactly these; serving engines read those best."""
    short = tuple(sorted({name.rpartition(".")[2] for name in layers}))
    return list(short) if target_layers(model, short) == layers else layers


def check_saved_modules(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """Raise `InvalidInput` for a name that matches no module, or one that cannot be trained alone."""
    tied = {model.get_input_embeddings(), model.get_output_embeddings()}
    for wanted in names:
        matches = [m for n, m in model.named_modules() if n and f".{n}".endswith(f".{wanted}")]
        if not matches:
            short = sorted({name.rpartition(".")[2] for name, _ in model.named_modules() if name})
            near = difflib.get_close_matches(wanted, short, n=3, cutoff=0.4)
            raise InvalidInput(
                f"train.lora.modules_to_save: {wanted!r} matches no module of {type(model).__name__}; "
                f"nearest: {', '.join(near) or 'none'}"
            )
        if model.config.tie_word_embeddings and tied & set(matches):
            raise InvalidInput(
                f"train.lora.modules_to_save: {wanted!r} shares its weights with the other end of the model "
                "(tied embeddings), so it cannot be trained alone; remove it, or take a base that is not tied"
            )


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that the optimizer moves."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def save_adapter(model: peft.PeftModel, base: BaseReference, out: Path) -> None:
    """Write the adapter as PEFT does, with the real base in its configuration instead of a local path."""
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    file = out / CONFIG
    settings: dict[str, Any] = json.loads(file.read_text())
    settings["base_model_name_or_path"] = base.source.removeprefix("hub:")
    settings["revision"] = base.revision
    # PEFT writes sets in the order of this process's hash seed
    settings["target_modules"] = sorted(settings["target_modules"])
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
