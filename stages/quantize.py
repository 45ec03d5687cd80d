"""Quantize for serving: a merged or base model to GPTQ or GGUF, an adapter to GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from registry.artifacts import JsonObject, QuantSpec, Relation
from registry.compat.adapter import TRAINED_ON, recipe_of
from registry.compat.shapes import KEY
from stages.contract import Facts, Parent, Parents, toolchain
from stages.errors import InvalidInput
from stages.quantization import QuantizeConfig, method_of
from stages.quantization.method import QuantizationMethod

VERSION = 5
TOOLS = ("torch", "transformers", "gptqmodel", "llama-cpp-python", "gguf", "sentencepiece")
RELATIONS: dict[str, Relation] = {"model": "quantized", "dataset": "calibrated_on", "base": "adapter"}


def quantize(parents: Parents, config: QuantizeConfig, out: Path) -> Facts:
    """Quantize `parents["model"]` (merged or base); write a GPTQ directory or `model.gguf` under `out`.

    GPTQ calibrates on `parents["dataset"]`. Facts of kind `quantized`, with the requested and the
    effective config: bits per weight, tensors per type, fallbacks, dtype, per-layer loss (GPTQ).
    An adapter as `parents["model"]`, with `parents["base"]`, becomes a GGUF adapter for llama.cpp: facts of
    kind `adapter` then.
    Raises `InvalidInput` for a model that is quantized already or cannot be quantized as asked,
    `InsufficientResources` before writing when the disk is too small, `MissingPackage`.
    """
    model, method = parents["model"], method_of(config)
    if model.kind == "adapter" or (model.path / "adapter_config.json").is_file():
        return _adapter(model, parents.get("base"), config, out)
    require_unquantized(model)
    dataset = _calibration(method, parents)
    made = method.quantize(config, model.path, dataset.path if dataset else None, _name(model), out)
    return Facts(
        kind="quantized",
        base=model.base,
        quant=QuantSpec(
            method=config.method,
            requested=config.model_dump(mode="json"),
            effective=made.effective,
            calibration_dataset=dataset.id if dataset else None,
            merge_base=model.quant.merge_base if model.quant else None,
            toolchain=toolchain((*TOOLS, *config.tools)),
        ),
        metrics=made.figures | {KEY: made.outline},
    )


def _calibration(method: QuantizationMethod[Any], parents: Parents) -> Parent | None:
    """The dataset of a method that needs one."""
    if not method.calibrates:
        return None
    if "dataset" not in parents:
        raise InvalidInput(
            f"{method.name} needs a prepared dataset to calibrate on, and none was given; give the dataset "
            "that the model was trained on, or use method: gguf, which needs none"
        )
    return parents["dataset"]


def _adapter(adapter: Parent, base: Parent | None, config: QuantizeConfig, out: Path) -> Facts:
    method = method_of(config)
    if not method.takes_adapters:
        raise InvalidInput(
            f"{adapter.path} is an adapter, and {method.name} is for whole models; merge it into its base "
            "first, or serve it as it is on vLLM"
        )
    if adapter.quant is not None and adapter.quant.is_gguf:
        raise InvalidInput(f"{adapter.path} is a GGUF adapter already; give the adapter as it was trained")
    if base is None:
        raise InvalidInput(
            f"{adapter.path} is an adapter; llama.cpp's converter needs the configuration of its base model: "
            "give that too (--base)"
        )
    made, trained = method.quantize_adapter(config, adapter.path, base.path, out), recipe_of(adapter)
    recipe = {} if trained is None else {TRAINED_ON: trained.model_dump(mode="json")}
    return Facts(
        kind="adapter",
        base=adapter.base or base.base,
        quant=QuantSpec(
            method=config.method,
            requested=config.model_dump(mode="json"),
            effective=made.effective | recipe,
            toolchain=toolchain((*TOOLS, *config.tools)),
        ),
        metrics=made.figures | {KEY: adapter.metrics.get(KEY) or made.outline},
    )


def require_unquantized(model: Parent) -> None:
    """Raise `InvalidInput` unless `model` is a Hugging Face directory, unquantized and without own code."""
    if model.quant is not None and model.quant.quantized:
        raise InvalidInput(
            f"{_name(model)} is already quantized ({model.quant.method}); quantizing twice adds both errors: "
            "use the merged model that it was made from"
        )
    config = _read_json(model.path / "config.json")
    if config is None:
        adapter = (model.path / "adapter_config.json").is_file()
        content = "an adapter: merge it into its base first" if adapter else "no config.json"
        raise InvalidInput(f"{model.path} is not a Hugging Face model directory; found {content}")
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


def _read_json(file: Path) -> JsonObject | None:
    try:
        document: JsonObject = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidInput(f"{file} is not valid JSON ({error}); fetch the model again") from error
    return document
