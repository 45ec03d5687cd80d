"""Read a PEFT LoRA adapter as changes to named model tensors; refuse by name what is not understood."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from registry.artifacts import JsonObject
from registry.compat import peft
from stages.backends.safetensors import TensorFiles
from stages.errors import InvalidInput

# Keys of adapter_config.json that do not change the mathematics, or that `Adapter` accounts for. Any other
# key with a value is a variant of LoRA (aLoRA, QALoRA, trainable tokens, …) that this merge does not know.
UNDERSTOOD = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
    "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
    "use_dora", "use_rslora",
})  # fmt: skip
# These initialisations also change the base weights, so the adapter alone does not say what the model was.
CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")


@dataclass
class Change:
    """What the adapter does to one model tensor: names of adapter tensors."""

    replacement: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    bias: str | None = None
    """`lora_B.bias` (PEFT's lora_bias), added to the module's bias after scaling."""

    def tensors(self) -> list[str]:
        return [name for name in (self.replacement, *self.parts.values(), self.bias) if name]


@dataclass(frozen=True)
class Adapter:
    """`changes`: model tensor name (as the model has it) → change."""

    directory: Path
    config: JsonObject
    tensors: TensorFiles
    changes: dict[str, Change]

    def rank(self, module: str) -> int:
        return int(_by_pattern(self.config.get("rank_pattern"), module, self.config["r"]))

    def scale(self, module: str) -> float:
        """alpha/r, or alpha/√r with rsLoRA."""
        alpha = _by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        rank = self.rank(module)
        return float(alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank)


def read_adapter(directory: Path) -> Adapter:
    """Raises `InvalidInput` for pickled weights, another method than LoRA, and unknown LoRA variants."""
    weights, config_file = directory / peft.WEIGHTS, directory / peft.CONFIG
    if not config_file.is_file():
        raise InvalidInput(f"{directory} holds no {peft.CONFIG}; expected a PEFT adapter directory")
    if not weights.is_file():
        pickled = (directory / peft.PICKLED).is_file()
        others = f"only {peft.PICKLED}, which is pickled and can run code when opened" if pickled else "none"
        raise InvalidInput(
            f"{directory}: expected {peft.WEIGHTS}, found {others}; save the adapter with "
            "save_pretrained(safe_serialization=True)"
        )
    config = json.loads(config_file.read_text())
    _check_config(directory, config)
    tensors = TensorFiles([weights])
    return Adapter(directory, config, tensors, _changes(directory, tensors))


def _check_config(directory: Path, config: JsonObject) -> None:
    if (method := config.get("peft_type")) != "LORA":
        raise InvalidInput(
            f"{directory} is a {method} adapter; only LoRA adapters (peft_type LORA) can be merged"
        )
    for key in ("r", "lora_alpha"):
        if not config.get(key):
            raise InvalidInput(
                f"{directory / peft.CONFIG} has no {key}; the update cannot be scaled without it"
            )
    if unknown := sorted(key for key, value in config.items() if value and key not in UNDERSTOOD):
        raise InvalidInput(
            f"{directory / peft.CONFIG} sets {unknown[0]} = {config[unknown[0]]!r}, a variant of LoRA "
            "that this merge does not know; merge it with the library that trained it"
        )
    initial = str(config.get("init_lora_weights", "")).lower()
    if initial.startswith(CHANGES_BASE):
        raise InvalidInput(
            f"{directory} was initialised with {initial}, which changes the base weights too; convert it to "
            "plain LoRA first (PEFT: save_pretrained(path_initial_model_for_weight_conversion=…))"
        )


def _changes(directory: Path, tensors: TensorFiles) -> dict[str, Change]:
    changes: dict[str, Change] = {}
    named = {key: peft.adapter_tensor(key) for key in tensors}
    trained = {name.target for name in named.values() if not name.untrained}
    for key, name in named.items():
        if (dtype := tensors.spec(key).dtype) not in {"F64", "F32", "F16", "BF16"}:
            raise InvalidInput(
                f"adapter tensor {key} in {directory} has dtype {dtype}; expected F32, F16 or BF16"
            )
        if name.untrained and name.target in trained:
            continue
        change = changes.setdefault(key if name.untrained else name.target, Change())
        if name.part is None:
            _replace(change, key, tensors)
        elif name.target.endswith(".weight"):
            change.parts[name.part] = key
        else:
            change.bias = key
    if not changes:
        raise InvalidInput(f"{directory / peft.WEIGHTS} holds no tensors; there is nothing to merge")
    return changes


def _replace(change: Change, key: str, tensors: TensorFiles) -> None:
    """PEFT may save a trained module under two names; they must agree."""
    if change.replacement and not torch.equal(tensors.read(change.replacement), tensors.read(key)):
        raise InvalidInput(
            f"adapter tensors {change.replacement} and {key} both replace one weight and differ; "
            "save the adapter again, or remove the wrong one"
        )
    change.replacement = change.replacement or key


def _by_pattern(patterns: dict[str, float] | None, module: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
