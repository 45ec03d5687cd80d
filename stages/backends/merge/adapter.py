"""Read a PEFT LoRA adapter as changes to named model tensors; refuse by name what is not understood."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

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

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<leaf>weight|bias))?"
)
_WHOLE = re.compile(r"(?P<module>.+)\.(?:base_layer|modules_to_save(?:\.default)?)\.(?P<leaf>weight|bias)")
# PEFT saves the untrained original of a resized embedding beside the trained one
_UNTRAINED = re.compile(r"(?P<module>.+)\.original_module\.(?P<leaf>weight|bias)")


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
    config: dict[str, Any]
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
    weights, config_file = directory / "adapter_model.safetensors", directory / "adapter_config.json"
    if not config_file.is_file():
        raise InvalidInput(f"{directory} holds no adapter_config.json; expected a PEFT adapter directory")
    if not weights.is_file():
        pickled = (directory / "adapter_model.bin").is_file()
        found = "only adapter_model.bin, which is pickled and can run code when opened" if pickled else "none"
        raise InvalidInput(
            f"{directory}: expected adapter_model.safetensors, found {found}; save the adapter with "
            "save_pretrained(safe_serialization=True)"
        )
    config = json.loads(config_file.read_text())
    _check_config(directory, config)
    tensors = TensorFiles([weights])
    return Adapter(directory, config, tensors, _changes(directory, tensors))


def _check_config(directory: Path, config: dict[str, Any]) -> None:
    if (method := config.get("peft_type")) != "LORA":
        raise InvalidInput(
            f"{directory} is a {method} adapter; only LoRA adapters (peft_type LORA) can be merged"
        )
    for key in ("r", "lora_alpha"):
        if not config.get(key):
            raise InvalidInput(
                f"{directory}/adapter_config.json has no {key}; the update cannot be scaled without it"
            )
    if unknown := sorted(key for key, value in config.items() if value and key not in UNDERSTOOD):
        raise InvalidInput(
            f"{directory}/adapter_config.json sets {unknown[0]} = {config[unknown[0]]!r}, a variant of LoRA "
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
    names = {key.removeprefix("base_model.model."): key for key in tensors}
    for name, key in names.items():
        if (dtype := tensors.spec(key).dtype) not in {"F64", "F32", "F16", "BF16"}:
            raise InvalidInput(
                f"adapter tensor {key} in {directory} has dtype {dtype}; expected F32, F16 or BF16"
            )
        if (
            untrained := _UNTRAINED.fullmatch(name)
        ) and f"{untrained['module']}.{untrained['leaf']}" in names:
            continue
        part = _PART.fullmatch(name)
        if part and part["leaf"] == "bias" and part["part"] == "lora_B":
            changes.setdefault(f"{part['module']}.bias", Change()).bias = key
        elif part and part["leaf"] != "bias":
            changes.setdefault(f"{part['module']}.weight", Change()).parts[part["part"]] = key
        else:
            whole = _WHOLE.fullmatch(name)
            target = f"{whole['module']}.{whole['leaf']}" if whole else name
            _replace(changes.setdefault(target, Change()), key, tensors)
    if not changes:
        raise InvalidInput(
            f"{directory}/adapter_model.safetensors holds no tensors; there is nothing to merge"
        )
    return changes


def _replace(change: Change, key: str, tensors: TensorFiles) -> None:
    """PEFT may save a trained module under two names; they must agree."""
    if change.replacement and not torch.equal(tensors.read(change.replacement), tensors.read(key)):
        raise InvalidInput(
            f"adapter tensors {change.replacement} and {key} both replace one weight and differ; "
            "save the adapter again, or remove the wrong one"
        )
    change.replacement = change.replacement or key


def _by_pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
