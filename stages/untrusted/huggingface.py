"""Untrusted adapters, merged models and GPTQ checkpoints, as `stages.untrusted.inspect` describes them."""

from __future__ import annotations

from math import prod
from pathlib import Path

from registry.compat.peft import CONFIG, WEIGHTS
from stages import outline
from stages.errors import InvalidInput
from stages.formats.model_files import INDEX, TOKENIZER_FILES, weight_files
from stages.untrusted import safetensors, tokenizer
from stages.untrusted.description import Description, Form, GptqSettings, OwnRecord, WeightFigures
from stages.untrusted.json import MEGABYTE, JsonObject, read_object, refuse_code
from stages.untrusted.safetensors import Located, UntrustedTensor

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONFIG_BYTES = 4 * MEGABYTE
INDEX_BYTES = 64 * MEGABYTE


def look_at_adapter(folder: Path, names: list[str], thorough: bool) -> Description:
    """A PEFT LoRA directory. Raises `InvalidInput`."""
    config = read_object(folder / CONFIG, CONFIG_BYTES)
    refuse_code(config, CONFIG)
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
                f"{CONFIG}: {key} is {config.get(key)!r:.40}, expected a number above 0; "
                "the update cannot be scaled without it"
            )
    if WEIGHTS not in names:
        raise InvalidInput(f"{folder.name}: expected {WEIGHTS}, found {_pickled(names)}")
    tensors = safetensors.together([folder / WEIGHTS], None)
    if thorough:
        _scan(folder, tensors)
    described = tokenizer.describe(folder)
    shape = outline.adapter_outline(config, _headers(tensors), described["length"] if described else None)
    wrong = sorted({target.rank for ones in shape.targets.values() for target in ones} - _ranks(config))
    if wrong:
        raise InvalidInput(
            f"{WEIGHTS} holds factors of rank {wrong[0]}, {CONFIG} says {sorted(_ranks(config))}; "
            "the update would be scaled wrongly: fetch both files again"
        )
    return {
        **_files("adapter", names, [CONFIG, WEIGHTS]),
        **_weights(tensors),
        "outline": shape.model_dump(mode="json"),
        "tokenizer": described,
        "record": own_record(folder, names),
        "config": {key: config.get(key) for key in ("base_model_name_or_path", "revision", "peft_version")},
    }


def look_at_model(folder: Path, names: list[str], thorough: bool) -> Description:
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
    needed = ["config.json", *(file.name for file in files), *([INDEX] if index else [])]
    quantization = _quantization(folder, names, config)
    shape = outline.model_outline(config, _headers(tensors))
    return {
        **_files("model" if quantization is None else "gptq", names, needed),
        **_weights(tensors, quantization),
        "outline": shape.model_dump(mode="json"),
        "tokenizer": tokenizer.describe(folder),
        "record": own_record(folder, names),
        "config": {
            "architecture": architectures[0],
            "dtype": config.get("dtype", config.get("torch_dtype")),
        },
        "quantization": quantization,
        "weights": [file.name for file in files],
    }


def _quantization(folder: Path, names: list[str], config: JsonObject) -> GptqSettings | None:
    """The GPTQ settings: in config.json, or beside it in quantize_config.json as auto-gptq wrote them."""
    own = config.get("quantization_config")
    beside = None
    if "quantize_config.json" in names:
        beside = read_object(folder / "quantize_config.json", CONFIG_BYTES)
    if own is None and beside is None:
        return None
    settings = own if own is not None else beside
    if not isinstance(settings, dict):
        raise InvalidInput("config.json: quantization_config is not a table; fetch the model again")
    method = settings.get("quant_method", "gptq" if own is None else None)
    form = settings.get("checkpoint_format", settings.get("format", "gptq"))
    if method != "gptq" or form not in ("gptq", "gptq_v2"):
        raise InvalidInput(
            f"{folder.name} is already quantized ({method!r:.40}, format {form!r:.40}); expected GPTQ in "
            "the format gptq or gptq_v2, or the 16-bit model that it was made from"
        )
    for name, least, most in (("bits", 1, 32), ("group_size", -1, 1 << 31)):
        if type(settings.get(name)) is not int or not least <= settings[name] <= most or settings[name] == 0:
            raise InvalidInput(
                f"the GPTQ settings name no {name} ({settings.get(name)!r:.40}); without it the packed "
                "weights cannot be read: fetch quantize_config.json again"
            )
        if beside is not None and beside.get(name) != settings[name]:
            raise InvalidInput(
                f"config.json says {name} {settings[name]}, quantize_config.json {beside.get(name)!r:.40}; "
                "one of them is stale: remove it"
            )
    meta = settings.get("meta")
    return {
        "bits": settings["bits"],
        "group_size": settings["group_size"],
        "desc_act": bool(settings.get("desc_act", False)),
        "sym": bool(settings.get("sym", True)),
        "checkpoint_format": form,
        "producer": meta.get("quantizer") if isinstance(meta, dict) else None,
        "stands_in": "config.json" if own is not None else "quantize_config.json",
    }


def own_record(folder: Path, names: list[str]) -> OwnRecord | None:
    """What Tuneline wrote beside the files when it made them, in another registry or without one."""
    for name in ("tuneline-facts.json", "tuneline.json"):
        if name in names:
            record = read_object(folder / name, CONFIG_BYTES)
            return {"file": name, "base": record.get("base"), "quant": record.get("quant")}
    return None


def _files(form: Form, names: list[str], needed: list[str]) -> Description:
    wanted = {*needed, "generation_config.json", "quantize_config.json", *TOKENIZER_FILES}
    return {
        "form": form,
        "files": [name for name in names if name in wanted],
        "left_out": [name for name in names if name not in wanted],
    }


def _scan(folder: Path, tensors: Located) -> None:
    by_file: dict[str, dict[str, UntrustedTensor]] = {}
    for name, (file, tensor) in tensors.items():
        by_file.setdefault(file, {})[name] = tensor
    for file, held in by_file.items():
        safetensors.require_finite(folder / file, held)


def _headers(tensors: Located) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.dtype, tensor.shape) for name, (_, tensor) in tensors.items()}


def _weights(tensors: Located, quantization: GptqSettings | None = None) -> WeightFigures:
    dtypes = [tensor.dtype for _, tensor in tensors.values()]
    return {
        "dtypes": {dtype: dtypes.count(dtype) for dtype in sorted(set(dtypes))},
        "bytes": sum(tensor.end - tensor.start for _, tensor in tensors.values()),
        "parameters": _parameters(tensors, quantization),
    }


def _parameters(tensors: Located, quantization: GptqSettings | None) -> int:
    """Weights of the model; packed ones are counted as what they stand for, scales and zeros not at all."""
    count = 0
    for name, (_, tensor) in tensors.items():
        part = name.rpartition(".")[2]
        if quantization and part == "qweight":
            count += prod(tensor.shape) * 32 // quantization["bits"]
        elif not quantization or part not in ("qzeros", "scales", "g_idx"):
            count += prod(tensor.shape)
    return count


def _ranks(config: JsonObject) -> set[int]:
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
