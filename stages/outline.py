"""The outline of a model or an adapter, from its configuration and its safetensors headers: no weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from registry.artifacts import JsonObject
from registry.compat import peft
from registry.compat.shapes import AdapterOutline, LoraTarget, ModelOutline, TensorGroup, group, is_end
from stages.errors import InvalidInput
from stages.families.config_names import positions, stretched, text_config
from stages.formats.model_directory import ModelDirectory

Headers = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor name → dtype code and shape."""


class AddedToken(TypedDict):
    """What is needed of an entry of a tokenizer.json's `added_tokens`."""

    id: int
    content: str


def outline_of_model(folder: Path) -> JsonObject:
    """For a manifest's metrics: the outline of the Hugging Face model (GPTQ too) in `folder`."""
    model = ModelDirectory(folder)
    return model_outline(model.config, model.shapes).model_dump(mode="json")


def outline_of_adapter(folder: Path) -> JsonObject:
    """For a manifest's metrics: the outline of the PEFT LoRA adapter in `folder`."""
    config = json.loads((folder / peft.CONFIG).read_text())
    file = folder / "tokenizer.json"
    ids = tokenizer_length(json.loads(file.read_text("utf-8"))) if file.is_file() else None
    return adapter_outline(config, ModelDirectory(folder).shapes, ids).model_dump(mode="json")


def outline_of_gguf(values: Mapping[str, Any]) -> JsonObject:
    """For a manifest's metrics: a GGUF file's own limits. Its tensors, in llama.cpp's names, stay out."""
    outline = ModelOutline(context_length=gguf_positions(values), tied=None, tensors={})
    return outline.model_dump(mode="json")


def gguf_positions(values: Mapping[str, Any]) -> int | None:
    """Tokens that the model in a GGUF file can read, of its metadata; None where it states no length."""
    architecture = str(values.get("general.architecture"))
    scaling = f"{architecture}.rope.scaling"
    rope = {
        "rope_type": values.get(f"{scaling}.type"),
        "factor": values.get(f"{scaling}.factor"),
        "original_max_position_embeddings": values.get(f"{scaling}.original_context_length"),
    }
    return stretched(values.get(f"{architecture}.context_length"), rope, architecture)


def model_outline(config: Mapping[str, Any], headers: Headers) -> ModelOutline:
    """`config`: config.json. A configuration that keeps its text model apart is read there too."""
    flat = text_config(config, "config.json")
    groups: dict[str, dict[tuple[tuple[int, ...], str], int]] = {}
    for name, (dtype, shape) in headers.items():
        counts = groups.setdefault(group(name), {})
        counts[shape, dtype] = counts.get((shape, dtype), 0) + 1
    tied = flat.get("tie_word_embeddings")
    return ModelOutline(
        context_length=positions(flat),
        tied=tied if isinstance(tied, bool) else None,
        tensors={
            name: tuple(
                TensorGroup(count=count, shape=shape, dtype=dtype)
                for (shape, dtype), count in sorted(groups[name].items())
            )
            for name in sorted(groups)
        },
    )


def adapter_outline(config: Mapping[str, Any], headers: Headers, ids: int | None) -> AdapterOutline:
    """`config`: adapter_config.json; `ids`: length of the tokenizer beside the adapter, if there is one.

    Raises `InvalidInput` for an adapter that holds no pairs, or half of one.
    """
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    saved: dict[str, tuple[int, ...]] = {}
    biases = False
    for name, (_, shape) in headers.items():
        tensor = peft.adapter_tensor(name)
        if tensor.part and not tensor.target.endswith(".bias"):
            pairs.setdefault(tensor.module, {})[tensor.part] = shape
        elif tensor.part:
            biases = True
        elif not tensor.untrained:
            saved[group(tensor.target)] = shape
    targets = _targets(pairs)
    if not targets:
        raise InvalidInput("the adapter holds no pair of LoRA factors; expected tensors lora_A and lora_B")
    rows = next((shape[0] for name, shape in saved.items() if is_end(name)), None)
    return AdapterOutline(
        rank=max(factors.rank for ones in targets.values() for factors in ones),
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")) or any("lora_magnitude_vector" in pair for pair in pairs.values()),
        bias=biases or config.get("bias", "none") != "none" or any(n.endswith(".bias") for n in saved),
        alpha_pattern=bool(config.get("alpha_pattern")),
        rank_pattern=bool(config.get("rank_pattern")),
        targets=targets,
        saved=dict(sorted(saved.items())),
        embedding_rows=rows,
        tokenizer_length=ids,
    )


def tokenizer_length(tokenizer: Mapping[str, Any]) -> int | None:
    """Largest id of a tokenizer.json, plus one; None where it has no vocabulary of a known form."""
    vocabulary = model.get("vocab") if isinstance(model := tokenizer.get("model"), dict) else None
    ids: Iterable[Any] = ()
    if isinstance(vocabulary, dict):
        ids = vocabulary.values()
    elif isinstance(vocabulary, list):
        ids = (len(vocabulary) - 1,)
    numbers = [number for number in ids if isinstance(number, int)]
    numbers += [entry["id"] for entry in added_tokens(tokenizer)]
    return max(numbers) + 1 if numbers else None


def added_tokens(tokenizer: Mapping[str, Any]) -> list[AddedToken]:
    """The entries of a tokenizer.json's `added_tokens` that have an id and a text."""
    entries = tokenizer.get("added_tokens")
    return [
        {"id": entry["id"], "content": entry["content"]}
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
        and isinstance(entry.get("id"), int)
        and isinstance(entry.get("content"), str)
    ]


def _targets(pairs: Mapping[str, Mapping[str, tuple[int, ...]]]) -> dict[str, tuple[LoraTarget, ...]]:
    counted: dict[str, dict[tuple[int, int, int, bool], int]] = {}
    for module, parts in sorted(pairs.items()):
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        first, second = (
            parts.get(f"lora_{'embedding_' if embedding else ''}{letter}") for letter in ("A", "B")
        )
        if first is None or second is None or len(first) != 2 or len(second) != 2 or first[0] != second[1]:
            raise InvalidInput(
                f"the adapter's factors of {module} are {dict(parts)}; expected A (rank, inputs) and "
                "B (outputs, rank): the file is incomplete or damaged"
            )
        key = (first[0], first[1], second[0], embedding)
        counts = counted.setdefault(group(module), {})
        counts[key] = counts.get(key, 0) + 1
    return {
        name: tuple(
            LoraTarget(count=count, rank=rank, inputs=inputs, outputs=outputs, embedding=embedding)
            for (rank, inputs, outputs, embedding), count in sorted(counts.items())
        )
        for name, counts in counted.items()
    }
