"""GPTQ through GPTQModel (Frantar et al. 2022, arXiv:2210.17323), on CPU or CUDA."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import torch

from registry.artifacts import digest
from stages.backends.arithmetic import effective
from stages.backends.gptq import calibration as gptq_calibration
from stages.backends.gptq.calibration import Calibration
from stages.backends.gptq.effective_config import EffectiveGptq, Losses, QuantizedModule, Sizes
from stages.backends.gptq.export import WrittenWeights, export
from stages.backends.gptq.keep_layers import LayerKeeper, UnusableLayers, kept_by
from stages.backends.gptq.load import library
from stages.backends.gptq.messages import quiet
from stages.backends.gptq.unfinished import UnfinishedLayers
from stages.backends.merge.layout import layout
from stages.backends.unfinished import CHECKPOINTS, known_by
from stages.contract import progress, toolchain
from stages.errors import InvalidInput, StageError
from stages.families.config_names import text_config
from stages.families.support import require_quantizable
from stages.formats.model_directory import ModelDirectory, TensorHeader
from stages.formats.model_files import need_room, weight_files
from stages.quantization.gptq import GptqConfig

LAYERS_FILE = "gptq_layers.json"
BATCH_ROWS = 8
STATE = 1
"""Of the form in which finished layers are kept."""
log = logging.getLogger("tuneline.quantize")


def quantize_gptq(model: Path, dataset: Path, config: GptqConfig, out: Path) -> EffectiveGptq:
    """Quantize the Hugging Face directory `model` into `out`, calibrated on `dataset/train.parquet`.

    Returns the effective config: bits, `bits_per_weight` (all weights, without the head that is stored twice
    for old loaders), `packed_bits_per_weight` (quantized modules only), `dtype`, `calibration` (rows, tokens,
    sha256 of the ids), `loss_by_layer` (squared error per layer), `damping_raised` and `fallbacks` (modules).
    `gptq_layers.json` has a row per module. A quantization of the same inputs goes on after the last layer
    that a killed one finished, to the same bytes.
    Raises `InvalidInput` (group size, calibration), `InsufficientResources`, `MissingPackage`.
    """
    directory = ModelDirectory(model)
    headers, settings = directory.headers, text_config(directory.config, str(model))
    require_quantizable(str(settings.get("model_type", "")), str(model))
    check_group_size(headers, config.group_size, conv1d_modules(model))
    longest = int(settings.get("max_position_embeddings") or 2048)
    rows, length = config.calibration_rows, min(longest, 2048)
    calibration = gptq_calibration.choose(model, dataset, rows, config.seed, length)
    computed = _compute_dtype(config)
    _need_room(headers, config, calibration.tokens * int(settings["hidden_size"]), out)
    unfinished = UnfinishedLayers(out, _stamp(model, calibration, config, computed))
    try:
        layers = int(settings["num_hidden_layers"])
        modules, rounded = _run(model, calibration, config, computed, layers, unfinished)
        written = export(unfinished.folder / "checkpoint", model, config.dtype, out)
    except InvalidInput:
        unfinished.discard()
        raise
    unfinished.discard()
    (out / LAYERS_FILE).write_text(json.dumps(modules, indent=1) + "\n")
    return {
        "format": "gptq",
        "sym": True,
        "bits": config.bits,
        "group_size": config.group_size,
        "desc_act": config.desc_act,
        "dtype": config.dtype,
        "compute_dtype": computed,
        **_sizes(written, sum(header.numel for header in headers.values()), config.bits),
        "calibration": calibration.summary,
        **summary(modules, config.damp_percent, rounded),
    }


def _sizes(written: WrittenWeights, parameters: int, bits: int) -> Sizes:
    packed = written["packed_elements"] * 32 / bits
    return {
        "types": written["types"],
        "parameters": parameters,
        "bytes": written["bytes"],
        "bits_per_weight": 8 * written["unique_bytes"] / parameters,
        "packed_bits_per_weight": 8 * sum(written["packed"].values()) / packed,
        "tied_head": written["tied_head"],
    }


def conv1d_modules(model: Path) -> frozenset[str]:
    """Names of the modules that store their weight as (inputs, outputs), as GPT-2's do."""
    return frozenset(name for name, kind in layout(model).modules.items() if kind == "conv1d")


def check_group_size(
    headers: dict[str, TensorHeader], group_size: int, conv1d: frozenset[str] = frozenset()
) -> None:
    """Raise `InvalidInput` where a layer's rows are not a multiple of `group_size`, naming sizes that fit.

    `conv1d`: modules that store their weight as (inputs, outputs). A file may leave out the beginning of a
    module's name.
    """
    turned = {f".{module}.weight" for module in conv1d}
    rows = {
        header.shape[0 if any(module.endswith(f".{name}") for module in turned) else 1]: name
        for name, header in headers.items()
        if len(header.shape) == 2 and re.search(r"\.\d+\..*weight$", name)
    }
    wrong = {length: name for length, name in rows.items() if group_size > 0 and length % group_size}
    if not wrong:
        return
    fitting = [size for size in (128, 64, 32) if not any(length % size for length in rows)]
    length, name = next(iter(wrong.items()))
    raise InvalidInput(
        f"group_size {group_size} does not divide the rows of {name} ({length} weights); "
        f"for this model use one of {', '.join(map(str, [*fitting, -1]))}"
    )


def summary(modules: list[QuantizedModule], damp: float, rounded: set[str]) -> Losses:
    """What happened over all modules: loss per layer, raised damping, modules that GPTQ could not do.

    A module falls back to plain rounding where the calibration hardly reached it, no damping made its
    Hessian positive definite, or its loss was NaN (`rounded`: the names of these).
    """
    losses: dict[int, float] = {}
    raised: dict[str, float] = {}
    fallbacks = []
    for module in modules:
        name = f"{module['layer']}.{module['module']}"
        if module["loss"] is None:
            fallbacks.append(name)
            continue
        losses[module["layer"]] = losses.get(module["layer"], 0.0) + module["loss"]
        # the library's log has five decimals
        if module["damp"] > damp + 1e-5:
            raised[name] = module["damp"]
    return {
        "modules": len(modules),
        "loss_by_layer": [round(losses[layer], 10) for layer in sorted(losses)],
        "damping_raised": raised,
        "fallbacks": fallbacks + sorted(rounded),
    }


def _stamp(model: Path, calibration: Calibration, config: GptqConfig, computed: str) -> str:
    """Digest of what the layers are made of, for a quantization that goes on after a kill."""
    inputs = known_by([model / "config.json", *weight_files(model)])
    packages = toolchain(("gptqmodel", "torch", "transformers", "safetensors"))
    settings = config.model_dump(mode="json")
    return digest([STATE, inputs, calibration.sha256, settings, computed, packages])


def _need_room(headers: dict[str, TensorHeader], config: GptqConfig, activations: int, out: Path) -> None:
    """Room for the result twice (saved, then exported), for the layers that GPTQModel parks on disk, and for
    the `activations` (numbers) that go into a layer, kept for the old and the next one; less what an earlier
    attempt left there."""
    inside = sum(header.numel for name, header in headers.items() if re.search(r"\.\d+\.", name))
    outside = sum(header.numel for header in headers.values()) - inside
    result = inside * (config.bits + 1) / 8 + outside * 2 * 2
    needed = int(3 * result) + 2 * 4 * activations + 16_000_000
    there = sum(file.stat().st_size for file in (out / CHECKPOINTS).rglob("*") if file.is_file())
    need_room(out, needed - there, f"quantizing to GPTQ {config.bits} bit")


def _run(
    model: Path,
    calibration: Calibration,
    config: GptqConfig,
    computed: str,
    layers: int,
    unfinished: UnfinishedLayers,
) -> tuple[list[QuantizedModule], set[str]]:
    """Save to `checkpoint` beside the layers; a row per module, and the names of those only rounded."""
    try:
        return _quantized(model, calibration, config, computed, layers, unfinished)
    except UnusableLayers as error:
        log.warning("%s; starting from layer 0", error)
        unfinished.start_over()
        return _quantized(model, calibration, config, computed, layers, unfinished)


def _quantized(
    model: Path,
    calibration: Calibration,
    config: GptqConfig,
    computed: str,
    layers: int,
    unfinished: UnfinishedLayers,
) -> tuple[list[QuantizedModule], set[str]]:
    with quiet() as messages:
        try:
            gptqmodel = _load_library(unfinished.folder)
            quantizer = gptqmodel.GPTQModel.load(
                str(model),
                _library_config(gptqmodel, config, unfinished.offload),
                dtype=getattr(torch, computed),
            )
            quantizer.layer_callback = _LayerProgress(layers)
            batch = min(BATCH_ROWS, len(calibration.rows))
            with kept_by(LayerKeeper(unfinished, messages.rounded)):
                logged = quantizer.quantize(calibration.rows, batch_size=batch)
            quantizer.save(str(unfinished.folder / "checkpoint"))
        except StageError:
            raise
        except Exception as error:  # the library raises bare ValueError, RuntimeError, NotImplementedError, …
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            for line in messages.tail:
                log.error("gptqmodel: %s", line)
            kind = InvalidInput if isinstance(error, ValueError | NotImplementedError) else StageError
            raise kind(
                f"GPTQModel could not quantize {model} ({first}); its last messages are in the log; if they "
                "do not help, quantize to GGUF (method: gguf)"
            ) from error
    rows = sorted((_row(entry) for entry in logged["gptq"]), key=lambda row: (row["layer"], row["module"]))
    return rows, messages.rounded


def _compute_dtype(config: GptqConfig) -> str:
    """The type of weights and activations while the calibration rows pass through the layers."""
    on_cpu = not torch.cuda.is_available()
    return "float32" if on_cpu and effective(config.compute_dtype) == torch.float32 else config.dtype


def _load_library(scratch: Path) -> Any:
    gptqmodel = library()
    from gptqmodel.looper import loop_processor

    # it writes a table of losses to `logs` in whatever directory this process runs in
    loop_processor._PROJECT_LOG_DIR = scratch / "logs"
    return gptqmodel


def _library_config(gptqmodel: Any, config: GptqConfig, offload: Path) -> Any:
    return gptqmodel.QuantizeConfig(
        bits=config.bits,
        group_size=config.group_size,
        desc_act=config.desc_act,
        # its own default is to order groups by activation, and it refuses that where a row is one group
        act_group_aware=None if config.group_size > 0 else False,
        damp_percent=config.damp_percent,
        format="gptq",
        device="cuda" if torch.cuda.is_available() else "cpu",
        offload_to_disk=True,
        offload_to_disk_path=str(offload),
    )


class _LayerProgress:
    """GPTQModel calls this when a layer is done, and again when its weights are packed."""

    def __init__(self, layers: int) -> None:
        self.layers, self.reported = layers, 0

    def __call__(self, layer_idx: int, submodule_finalized: bool) -> None:
        if layer_idx >= self.reported:
            self.reported = layer_idx + 1
            progress(self.reported, self.layers, "layers")


def _row(entry: dict[str, str]) -> QuantizedModule:
    """One entry of GPTQModel's log; its loss is a text such as "fallback(rtn): …" without a Hessian."""
    try:
        loss = float(entry["loss"])
    except ValueError:
        loss = math.nan
    return {
        "layer": int(entry["layer"]),
        "module": entry["module"],
        "loss": loss if math.isfinite(loss) else None,
        "samples": int(float(entry["samples"])),
        "damp": float(entry["damp"]),
    }
