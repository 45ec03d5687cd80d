"""A GPTQ checkpoint as a directory that today's and yesterday's loaders read.

transformers 4 and auto-gptq 0.7.1 want `rope_theta`, `rope_scaling` and `torch_dtype` in config.json, the
chat template in tokenizer_config.json, `quantize_config.json`, and the output head as a tensor of its own
even where it is tied to the embedding; transformers 5 and vLLM ignore what they do not need.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal, TypedDict

import torch

from stages.backends.merge.layout import Layout, layout
from stages.backends.safetensors import CODES, TensorSpec, model_files, write_model
from stages.backends.tokenizer import PLAIN_CLASS, require_plain_reading
from stages.errors import InvalidInput
from stages.formats.model_directory import ModelConfig, ModelDirectory
from stages.formats.model_files import TOKENIZER_FILES

SHARD_BYTES = 4_000_000_000
_FLOATS = ("F32", "F16", "BF16")


class WrittenWeights(TypedDict):
    """The weights as written; `packed`: module → bytes of its packed weights, scales, zeros and groups."""

    types: dict[str, int]
    bytes: int
    unique_bytes: int
    """Without the tied head that is stored twice."""
    tied_head: Literal["repeated", "stored", "absent"]
    packed: dict[str, int]
    packed_elements: int
    """32-bit numbers that hold packed weights."""


def export(checkpoint: Path, model: Path, dtype: str, out: Path) -> WrittenWeights:
    """Write the checkpoint that GPTQModel saved in `checkpoint`, made from `model`, to `out`.

    Every floating tensor is of `dtype` ("float16" or "bfloat16").
    Raises `InvalidInput` naming the tensor that is not finite in `dtype`.
    """
    config = ModelDirectory(model).config
    weights = _write_weights(checkpoint, layout(model), getattr(torch, dtype), out)
    saved = ModelDirectory(checkpoint).config["quantization_config"]
    # left on, whoever loads the checkpoint gets a temporary directory for it; the path is this machine's
    saved["meta"] |= {"offload_to_disk": False, "offload_to_disk_path": None}
    _write_json(out / "config.json", legacy_config(config, dtype) | {"quantization_config": saved})
    _write_json(out / "quantize_config.json", saved)
    _copy_tokenizer(model, out)
    return weights


def legacy_config(config: ModelConfig, dtype: str) -> ModelConfig:
    """`config` with what transformers 4 reads added to what transformers 5 wrote."""
    result = config | {"dtype": dtype, "torch_dtype": dtype}
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        result.setdefault("rope_theta", rope["rope_theta"])
        kind = rope.get("rope_type", "default")
        if kind != "default":
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            result.setdefault("rope_scaling", scaling | {"type": kind})
    return result


def _write_weights(checkpoint: Path, made_of: Layout, dtype: torch.dtype, out: Path) -> WrittenWeights:
    tensors = model_files(checkpoint)
    specs = {
        spec.name: TensorSpec(spec.name, CODES[dtype] if spec.dtype in _FLOATS else spec.dtype, spec.shape)
        for spec in tensors.specs()
    }
    head = f"{made_of.output_embedding}.weight"
    embedding = made_of.tied.get(head, "")
    repeated = head not in specs and embedding in specs
    if repeated:
        specs[head] = TensorSpec(head, specs[embedding].dtype, specs[embedding].shape)

    def produce(name: str) -> torch.Tensor:
        tensor = tensors.read(embedding if repeated and name == head else name)
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(dtype)
        if not torch.isfinite(tensor).all():
            raise InvalidInput(
                f"tensor {name} is not finite in {str(dtype).removeprefix('torch.')}; use dtype: bfloat16, "
                "or merge again: the range of every tensor is checked there"
            )
        return tensor

    files = write_model(out, list(specs.values()), SHARD_BYTES, produce)
    total = sum(spec.bytes for spec in specs.values())
    types: dict[str, int] = {}
    for spec in specs.values():
        types[spec.dtype] = types.get(spec.dtype, 0) + 1
    return {
        "types": dict(sorted(types.items())),
        "bytes": sum((out / file).stat().st_size for file in files),
        "unique_bytes": total - (specs[head].bytes if repeated else 0),
        "tied_head": "repeated" if repeated else ("stored" if head in specs else "absent"),
        "packed": _packed(list(specs.values())),
        "packed_elements": sum(spec.elements for spec in specs.values() if spec.name.endswith(".qweight")),
    }


def _packed(specs: list[TensorSpec]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for spec in specs:
        module, _, part = spec.name.rpartition(".")
        if part in ("qweight", "qzeros", "scales", "g_idx"):
            sizes[module] = sizes.get(module, 0) + spec.bytes
    return sizes


def _copy_tokenizer(model: Path, out: Path) -> None:
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (model / name).is_file():
            shutil.copyfile(model / name, out / name)
    template, settings = model / "chat_template.jinja", out / "tokenizer_config.json"
    values = json.loads(settings.read_text()) if settings.is_file() else {}
    if template.is_file():
        values["chat_template"] = template.read_text(encoding="utf-8")
    if values.get("tokenizer_class") == "TokenizersBackend":
        # transformers 5's own name, which transformers 4 does not know; both know this one
        values["tokenizer_class"] = PLAIN_CLASS
    _write_json(settings, values)
    require_plain_reading(out)


def _write_json(file: Path, value: ModelConfig) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
