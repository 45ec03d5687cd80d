"""Untrusted adapters, merged models and GPTQ checkpoints, as `stages.untrusted.inspect` describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages import outline
from stages.errors import InvalidInput
from stages.formats.model_files import INDEX, TOKENIZER_FILES, weight_files
from stages.untrusted import safetensors
from stages.untrusted import tokenizer as foreign_tokenizer
from stages.untrusted.json import MEGABYTE, read_object, refuse_code
from stages.untrusted.safetensors import ForeignTensor

WEIGHTS = "adapter_model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONFIG_BYTES = 4 * MEGABYTE
INDEX_BYTES = 64 * MEGABYTE


def look_at_adapter(folder: Path, names: list[str], thorough: bool) -> dict[str, Any]:
    """A PEFT LoRA directory. Raises `InvalidInput`."""
    config = read_object(folder / "adapter_config.json", CONFIG_BYTES)
    refuse_code(config, "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise InvalidInput(
            f"{folder.name} is a {str(config.get('peft_type'))[:40]} adapter; only LoRA is known here"
        )
    for key in ("r", "lora_alpha"):
        if (
            isinstance(config.get(key), bool)
            or not isinstance(config.get(key), int | float)
            or config[key] <= 0
        ):
            raise InvalidInput(
                f"adapter_config.json: {key} is {config.get(key)!r:.40}, expected a number above 0; "
                "the update cannot be scaled without it"
            )
    if WEIGHTS not in names:
        raise InvalidInput(f"{folder.name}: expected {WEIGHTS}, found {_pickled(names)}")
    tensors = safetensors.together([folder / WEIGHTS], None)
    if thorough:
        _scan(folder, tensors)
    tokenizer = foreign_tokenizer.describe(folder)
    shape = outline.adapter_outline(config, _headers(tensors), tokenizer["length"] if tokenizer else None)
    wrong = sorted({one.rank for ones in shape.targets.values() for one in ones} - _ranks(config))
    if wrong:
        raise InvalidInput(
            f"{WEIGHTS} holds factors of rank {wrong[0]}, adapter_config.json says {sorted(_ranks(config))}; "
            "the update would be scaled wrongly: fetch both files again"
        )
    return _found(
        "adapter", names, ["adapter_config.json", WEIGHTS], shape, tokenizer, own_record(folder, names),
        config={key: config.get(key) for key in ("base_model_name_or_path", "revision", "peft_version")},
        dtypes=_dtypes(tensors), bytes=_bytes(tensors), parameters=_parameters(tensors),
    )  # fmt: skip


def look_at_model(folder: Path, names: list[str], thorough: bool) -> dict[str, Any]:
    """A Hugging Face directory with 16- or 32-bit weights, or with GPTQ's. Raises `InvalidInput`."""
    config = read_object(folder / "config.json", CONFIG_BYTES)
    refuse_code(config, "config.json")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise InvalidInput("config.json names no architecture; expected one such as LlamaForCausalLM")
    index = read_object(folder / INDEX, INDEX_BYTES) if INDEX in names else None
    weight_map = None if index is None else index.get("weight_map")
    if index is not None and not (
        isinstance(weight_map, dict) and all(isinstance(v, str) for v in weight_map.values())
    ):
        raise InvalidInput(f"{INDEX} holds no weight_map from tensors to files; fetch the model again")
    if not any(name.endswith(".safetensors") for name in names):
        raise InvalidInput(f"{folder.name}: expected weights in safetensors files, found {_pickled(names)}")
    files = weight_files(folder)
    tensors = safetensors.together(files, weight_map)
    if thorough:
        _scan(folder, tensors)
    needed = ["config.json", *(one.name for one in files), *([INDEX] if index else [])]
    quantization = _quantization(folder, names, config)
    shape = outline.model_outline(config, _headers(tensors))
    dtypes = _dtypes(tensors)
    return _found(
        "model" if quantization is None else "gptq",
        names, needed, shape, foreign_tokenizer.describe(folder), own_record(folder, names),
        config={"architecture": architectures[0], "dtype": config.get("dtype", config.get("torch_dtype"))},
        quantization=quantization, dtypes=dtypes, bytes=_bytes(tensors),
        parameters=_parameters(tensors, quantization),
        weights=[one.name for one in files],
    )  # fmt: skip


def _quantization(folder: Path, names: list[str], config: dict[str, Any]) -> dict[str, Any] | None:
    """The GPTQ settings: in config.json, or beside it in quantize_config.json as auto-gptq wrote them."""
    own = config.get("quantization_config")
    beside = None
    if "quantize_config.json" in names:
        beside = read_object(folder / "quantize_config.json", CONFIG_BYTES)
    if own is None and beside is None:
        return None
    found = own if own is not None else beside
    if not isinstance(found, dict):
        raise InvalidInput("config.json: quantization_config is no table of settings; fetch the model again")
    method = found.get("quant_method", "gptq" if own is None else None)
    form = found.get("checkpoint_format", found.get("format", "gptq"))
    if method != "gptq" or form not in ("gptq", "gptq_v2"):
        raise InvalidInput(
            f"{folder.name} is already quantized ({method!r:.40}, format {form!r:.40}); expected GPTQ in "
            "the format gptq or gptq_v2, or the 16-bit model that it was made from"
        )
    for name, least, most in (("bits", 1, 32), ("group_size", -1, 1 << 31)):
        if type(found.get(name)) is not int or not least <= found[name] <= most or found[name] == 0:
            raise InvalidInput(
                f"the GPTQ settings name no {name} ({found.get(name)!r:.40}); without it the packed weights "
                "cannot be read: fetch quantize_config.json again"
            )
        if beside is not None and beside.get(name) != found[name]:
            raise InvalidInput(
                f"config.json says {name} {found[name]}, quantize_config.json {beside.get(name)!r:.40}; "
                "one of them is stale: remove it"
            )
    meta = found.get("meta")
    return {
        "bits": found["bits"],
        "group_size": found["group_size"],
        "desc_act": bool(found.get("desc_act", False)),
        "sym": bool(found.get("sym", True)),
        "checkpoint_format": form,
        "producer": meta.get("quantizer") if isinstance(meta, dict) else None,
        "stands_in": "config.json" if own is not None else "quantize_config.json",
    }


def own_record(folder: Path, names: list[str]) -> dict[str, Any] | None:
    """What Tuneline wrote beside the files when it made them, in another registry or without one."""
    for name in ("tuneline-facts.json", "tuneline.json"):
        if name in names:
            found = read_object(folder / name, CONFIG_BYTES)
            return {"file": name, "base": found.get("base"), "quant": found.get("quant")}
    return None


def _found(
    form: str, names: list[str], needed: list[str], shape: Any, tokenizer: Any, record: Any, **more: Any
) -> dict[str, Any]:
    wanted = {*needed, "generation_config.json", "quantize_config.json", *TOKENIZER_FILES}
    return {
        "form": form,
        "files": [name for name in names if name in wanted],
        "left_out": [name for name in names if name not in wanted],
        "outline": shape.model_dump(mode="json"),
        "tokenizer": tokenizer,
        "record": record,
        **more,
    }


def _scan(folder: Path, tensors: dict[str, tuple[str, ForeignTensor]]) -> None:
    by_file: dict[str, dict[str, ForeignTensor]] = {}
    for name, (file, tensor) in tensors.items():
        by_file.setdefault(file, {})[name] = tensor
    for file, held in by_file.items():
        safetensors.require_finite(folder / file, held)


def _headers(tensors: dict[str, tuple[str, ForeignTensor]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.dtype, tensor.shape) for name, (_, tensor) in tensors.items()}


def _dtypes(tensors: dict[str, tuple[str, ForeignTensor]]) -> dict[str, int]:
    found = [tensor.dtype for _, tensor in tensors.values()]
    return {dtype: found.count(dtype) for dtype in sorted(set(found))}


def _bytes(tensors: dict[str, tuple[str, ForeignTensor]]) -> int:
    return sum(tensor.end - tensor.start for _, tensor in tensors.values())


def _parameters(
    tensors: dict[str, tuple[str, ForeignTensor]], quantization: dict[str, Any] | None = None
) -> int:
    """Weights of the model; packed ones are counted as what they stand for, scales and zeros not at all."""
    count = 0
    for name, (_, tensor) in tensors.items():
        part = name.rpartition(".")[2]
        elements = 1
        for length in tensor.shape:
            elements *= length
        if quantization and part == "qweight":
            count += elements * 32 // quantization["bits"]
        elif not quantization or part not in ("qzeros", "scales", "g_idx"):
            count += elements
    return count


def _ranks(config: dict[str, Any]) -> set[int]:
    patterns = config.get("rank_pattern")
    values = patterns.values() if isinstance(patterns, dict) else ()
    return {int(config["r"]), *(value for value in values if isinstance(value, int))}


def _pickled(names: list[str]) -> str:
    pickled = [name for name in names if name.endswith(PICKLED)]
    if pickled:
        return (
            f"only pickled weights ({', '.join(pickled[:3])}), which can run code when opened; "
            "save them with save_pretrained(safe_serialization=True) in a place you trust"
        )
    return f"{shown(names)}; fetch it again"


def shown(names: list[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") if names else "nothing"
