"""Quantize for serving: a merged or base model to GPTQ or GGUF, an adapter to GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from registry.artifacts import Parentage, QuantSpec
from registry.compat.adapter import TRAINED_ON, recipe_of
from registry.compat.shapes import KEY
from stages.config.quantize import GgufConfig, GptqConfig
from stages.contract import Facts, Parent, Parents, toolchain
from stages.errors import InvalidInput
from stages.outline import outline_of_adapter, outline_of_gguf, outline_of_model

VERSION = 5
TOOLS = ("torch", "transformers", "gptqmodel", "llama-cpp-python", "gguf", "sentencepiece")


def quantize(parents: Parents, config: GptqConfig | GgufConfig, out: Path) -> Facts:
    """Quantize `parents["model"]` (merged or base); write a GPTQ directory or `model.gguf` under `out`.

    GPTQ calibrates on `parents["dataset"]`. Facts of kind `quantized`, with the requested and the
    effective config: bits per weight, tensors per type, fallbacks, dtype, per-layer loss (GPTQ).
    An adapter as `parents["model"]`, with `parents["base"]`, becomes a GGUF adapter for llama.cpp: facts of
    kind `adapter` then.
    Raises `InvalidInput` for a model that is quantized already or cannot be quantized as asked,
    `InsufficientResources` before writing when the disk is too small, `MissingPackage`.
    """
    model, dataset = parents["model"], parents.get("dataset")
    if model.kind == "adapter" or (model.path / "adapter_config.json").is_file():
        return _adapter(model, parents.get("base"), config, out)
    require_unquantized(model)
    relations = [Parentage(relation="quantized", id=model.id)]
    if isinstance(config, GgufConfig):
        from stages.backends.gguf.convert import convert
        from stages.formats.gguf import read_gguf

        effective = convert(model.path, config.type, _name(model), out)
        outline = outline_of_gguf(read_gguf(out / "model.gguf").values)
        calibrated_on = None
    else:
        if dataset is None:
            raise InvalidInput(
                "GPTQ needs a prepared dataset to calibrate on, and none was given; give the dataset that "
                "the model was trained on, or use method: gguf, which needs none"
            )
        from stages.backends.gptq.quantize import quantize_gptq

        effective = quantize_gptq(model.path, dataset.path, config, out)
        outline = outline_of_model(out)
        calibrated_on = dataset.id
        relations.append(Parentage(relation="calibrated_on", id=dataset.id))
    return Facts(
        kind="quantized",
        relations=tuple(relations),
        base=model.base,
        quant=QuantSpec(
            method=config.method,
            requested=config.model_dump(mode="json"),
            effective=effective,
            calibration_dataset=calibrated_on,
            merge_base=model.quant.merge_base if model.quant else None,
            toolchain=toolchain(TOOLS),
        ),
        metrics={
            "bytes": effective["bytes"],
            "bits_per_weight": effective["bits_per_weight"],
            "parameters": effective["parameters"],
            KEY: outline,
        },
    )


def _adapter(adapter: Parent, base: Parent | None, config: GptqConfig | GgufConfig, out: Path) -> Facts:
    if isinstance(config, GptqConfig):
        raise InvalidInput(
            f"{adapter.path} is an adapter, and GPTQ is for whole models; merge it into its base first, or "
            "serve it as it is on vLLM"
        )
    if adapter.quant is not None and adapter.quant.method == "gguf":
        raise InvalidInput(f"{adapter.path} is a GGUF adapter already; give the adapter as it was trained")
    if base is None:
        raise InvalidInput(
            f"{adapter.path} is an adapter; llama.cpp's converter needs the configuration of its base model: "
            "give that too (--base)"
        )
    from stages.backends.gguf.adapter import convert_adapter

    effective = convert_adapter(adapter.path, base.path, config.type, "adapter", out)
    if (recipe := recipe_of(adapter)) is not None:
        effective[TRAINED_ON] = recipe.model_dump(mode="json")
    shape = {KEY: adapter.metrics.get(KEY) or outline_of_adapter(adapter.path)}
    figures = {name: effective[name] for name in ("bytes", "bits_per_weight", "parameters")}
    return Facts(
        kind="adapter",
        relations=(
            Parentage(relation="quantized", id=adapter.id),
            Parentage(relation="adapter", id=base.id),
        ),
        base=adapter.base or base.base,
        quant=QuantSpec(
            method="gguf",
            requested=config.model_dump(mode="json"),
            effective=effective,
            toolchain=toolchain(TOOLS),
        ),
        metrics=figures | shape,
    )


def require_unquantized(model: Parent) -> None:
    """Raise `InvalidInput` unless `model` is a Hugging Face directory, unquantized and without own code."""
    if model.quant is not None and model.quant.method != "none":
        raise InvalidInput(
            f"{_name(model)} is already quantized ({model.quant.method}); quantizing twice adds both errors: "
            "use the merged model that it was made from"
        )
    config = _read_json(model.path / "config.json")
    if config is None:
        adapter = (model.path / "adapter_config.json").is_file()
        found = "an adapter: merge it into its base first" if adapter else "no config.json"
        raise InvalidInput(f"{model.path} is no Hugging Face model directory; found {found}")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown method")
        raise InvalidInput(
            f"{model.path} is already quantized ({method}); quantizing twice adds both errors: "
            "use the 16-bit model that it was made from"
        )
    settings = _read_json(model.path / "tokenizer_config.json") or {}
    if "auto_map" in config or "auto_map" in settings:
        raise InvalidInput(
            f"{model.path} asks for Python code of its own (auto_map), which is never run here; "
            "use a model whose architecture and tokenizer transformers has built in"
        )


def _name(model: Parent) -> str:
    """The same for the same work: no directory name, which may be a temporary one."""
    return Path(model.base.source.partition(":")[2]).stem if model.base else "model"


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidInput(f"{file} is not valid JSON ({error}); fetch the model again") from error
    return found
