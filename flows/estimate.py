"""What a recipe will need: memory, disk and time of each stage, from metadata and measured rates.

Estimates are upper ends of what to expect, not promises; each formula is stated where it is computed.
Rates were measured on a 2-core AVX512 CPU or taken from the papers named beside them.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from flows.machine import Machine, machine
from flows.recipe import AdapterConfig
from flows.wording import size
from stages.evaluate import EvaluateConfig, HeldoutTask, LmEvalTask
from stages.merge import MergeConfig
from stages.model_shape import ModelShape, describe_base
from stages.prepare import PrepareConfig
from stages.quantize import GgufConfig, GptqConfig
from stages.resolve import BaseConfig
from stages.train import TrainConfig
from stages.training_memory import RUNTIME, adapter_parameters, training_memory

__all__ = ["Machine", "ModelShape", "StageEstimate", "describe_base", "estimate", "machine", "shortfalls"]

LIGHT_RUNTIME = 550_000_000
CPU_FLOPS = 80e9
"""Per second and core: 187–219 tokens/s measured for 135M parameters on 2 cores, 6 operations each."""
GPU_FLOPS = 50e12
"""Sustained in QLoRA: 65B parameters for 24 hours on one GPU (arXiv:2305.14314, section 1), rounded down."""
GPTQ_CPU_SECONDS = 114 / 135e6
"""Per parameter on 2 cores, measured with 32 calibration rows."""
GPTQ_GPU_SECONDS = 4.2 * 3600 / 175e9
"""Per parameter on one A100 (Frantar et al. 2022, arXiv:2210.17323, section 4)."""
DISK_RATE = 100e6
"""Bytes per second through merge or conversion, measured at 68–280 MB/s."""
BIG_MODEL = 2_000_000_000
"""From this many parameters training on a CPU takes days, so a GPU is expected."""
GGUF_BITS = {
    "F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.7, "Q5_K_S": 5.54,
    "Q5_0": 5.54, "Q4_K_M": 4.85, "Q4_K_S": 4.58, "Q4_0": 4.55, "Q3_K_M": 3.91, "Q2_K": 3.35,
}  # fmt: skip

BRANCH_TOKENS = 1024
"""Continuation tokens that an evaluation reads at once."""
LOGIT_COPIES = 8
HEAP_HOLES = 1.3
"""On a CPU batches of different lengths leave holes in the heap: the demo took 1.28 times its largest."""

Device = Literal["cpu", "gpu"]


class Plan(Protocol):
    """The part of a recipe that costs something."""

    @property
    def base(self) -> BaseConfig: ...
    @property
    def prepare(self) -> PrepareConfig: ...
    @property
    def train(self) -> TrainConfig: ...
    @property
    def merge(self) -> MergeConfig: ...
    @property
    def quantize(self) -> tuple[GptqConfig | GgufConfig, ...]: ...
    @property
    def adapter(self) -> AdapterConfig | None: ...
    @property
    def evaluate(self) -> EvaluateConfig: ...


@dataclass(frozen=True)
class StageEstimate:
    """`memory_bytes`: main memory for `device` cpu, the GPU's for gpu; `seconds` None: not known yet."""

    stage: str
    memory_bytes: int
    disk_bytes: int
    seconds: float | None
    note: str
    device: Device = "cpu"


def estimate(recipe: Plan, shape: ModelShape, machine: Machine) -> list[StageEstimate]:
    """One entry per stage in the order they run. Disk is what the stage adds and keeps."""
    gpu = bool(machine.cuda) or shape.parameters >= BIG_MODEL
    tokens = _training_tokens(recipe)
    return [
        _resolve(recipe, shape),
        _prepare(recipe),
        _train(recipe, shape, machine, gpu, tokens),
        _evaluate(recipe, shape, machine),
        _merge(recipe, shape, machine),
        *(_quantize(config, recipe, shape, machine, gpu) for config in recipe.quantize),
        *_apart(recipe, shape, machine),
    ]


def shortfalls(estimates: Iterable[StageEstimate], machine: Machine) -> list[str]:
    """What this machine lacks, one plain sentence each; empty where all fits."""
    estimates = list(estimates)
    missing = []
    largest_gpu = max((held for _, held in machine.cuda), default=0)
    for stage in estimates:
        need = f"{stage.stage} needs about {size(stage.memory_bytes)} of"
        if stage.device == "gpu" and not machine.cuda:
            missing.append(f"{need} GPU memory, this machine has no GPU: run it on one that has")
        elif stage.device == "gpu" and stage.memory_bytes > largest_gpu:
            missing.append(
                f"{need} GPU memory, the largest GPU here has {size(largest_gpu)}: {_smaller(stage.stage)}"
            )
        elif stage.device == "cpu" and stage.memory_bytes > machine.memory_available:
            missing.append(
                f"{need} memory, this machine has {size(machine.memory_available)} free: "
                f"{_smaller(stage.stage)}"
            )
    disk = sum(stage.disk_bytes for stage in estimates)
    if disk > machine.disk_free:
        missing.append(
            f"the run needs about {size(disk)} of disk, {size(machine.disk_free)} are free: make "
            "room, or set TUNELINE_HOME to a larger disk"
        )
    return missing


def _resolve(recipe: Plan, shape: ModelShape) -> StageEstimate:
    converted = recipe.base.source.startswith(("package:", "pico:"))
    kept = shape.parameters * 2 if converted else shape.stored_bytes
    memory = LIGHT_RUNTIME + (shape.parameters * 6 if converted else 0)
    note = "converts to 16 bits" if converted else "copies or downloads the base"
    return StageEstimate("resolve base", memory, kept, 10 + kept / DISK_RATE, note)


def _prepare(recipe: Plan) -> StageEstimate:
    size = _data_bytes(recipe.prepare.source)
    if size is None:
        return StageEstimate(
            "prepare data", LIGHT_RUNTIME, 0, None, "size of the data not known before download"
        )
    return StageEstimate(
        "prepare data", LIGHT_RUNTIME, 2 * size, 10 + size / 1e6, f"{size / 1e6:.1f} MB of data"
    )


def _train(
    recipe: Plan, shape: ModelShape, machine: Machine, gpu: bool, tokens: float | None
) -> StageEstimate:
    config = recipe.train
    longest = min(config.max_length, recipe.prepare.max_length)
    frozen: Literal["packed", "dequantized"] = "packed"
    if config.frozen_weights == "dequantized":
        frozen = "dequantized"
    elif config.frozen_weights == "auto" and not gpu:
        fits = training_memory(shape, config, longest, "dequantized", gpu) <= machine.memory_available
        frozen = "dequantized" if fits else "packed"
    memory = int(training_memory(shape, config, longest, frozen, gpu) * (1 if gpu else HEAP_HOLES))
    adapter = adapter_parameters(shape, config)
    passes = 6 if config.gradient_checkpointing else 4
    rate = GPU_FLOPS if gpu else CPU_FLOPS * machine.cpu_count
    seconds = None if tokens is None else 30 + tokens * passes * shape.parameters / rate
    note = f"{frozen} NF4, {adapter / 1e6:.1f}M adapter parameters, rows of up to {longest} tokens"
    if gpu and config.optimizer.startswith("paged"):
        note += f"; {size(adapter * 8)} of optimizer state may move to main memory"
    # one finished adapter and at most two checkpoints with gradients' moments
    return StageEstimate("train adapter", memory, adapter * 28, seconds, note, "gpu" if gpu else "cpu")


def _evaluate(recipe: Plan, shape: ModelShape, machine: Machine) -> StageEstimate:
    """The merged model is the largest one measured: weights, keys and values, and float32 logits of a batch's
    branches and ends, which stand in memory eight times at the peak (measured: 3.0 to 4.5 GB for 135M)."""
    config = recipe.evaluate
    length = min(recipe.prepare.max_length, config.context_length)
    cache = 4 * shape.layers * shape.kv_heads * shape.head_size * length * config.batch_size
    logits = (BRANCH_TOKENS + config.batch_size**2) * shape.vocabulary * 4 * LOGIT_COPIES
    memory = RUNTIME + shape.parameters * 2 + cache + logits
    fits = any(memory <= held for _, held in machine.cuda)
    if not fits and config.compute_dtype == "float32":
        memory += shape.parameters * 2 + cache
    models = 3 + len(recipe.quantize) + (recipe.adapter is not None)
    rate = GPU_FLOPS if fits else CPU_FLOPS * machine.cpu_count
    tokens = _evaluated_tokens(recipe)
    seconds = None if tokens is None else models * (12 + 2 * shape.parameters * tokens / rate)
    note = f"{models} models, one after the other; the merged one is the largest"
    if tokens is None:
        note += "; give an lm-eval task a limit to have its time foretold"
    return StageEstimate("evaluate", int(memory), 0, seconds, note, "gpu" if fits else "cpu")


def _merge(recipe: Plan, shape: ModelShape, machine: Machine) -> StageEstimate:
    """One tensor at a time: an embedding is copied or converted, a linear weight has a float32 update."""
    embedding = shape.vocabulary * shape.hidden * 4
    linear = max(prod_in * prod_out for prod_in, prod_out in shape.linear_shapes().values()) * 8
    size = shape.parameters * 2
    product = 2 * recipe.train.lora.rank * shape.linear_parameters / (CPU_FLOPS * machine.cpu_count)
    folds = len(recipe.merge.candidates)
    seconds = folds * (15 + size / DISK_RATE + product)
    note = "one tensor at a time" + (", into both the 16-bit and the NF4 weights" if folds > 1 else "")
    return StageEstimate("merge", LIGHT_RUNTIME + max(embedding, linear), folds * size, seconds, note)


def _quantize(
    config: GptqConfig | GgufConfig, recipe: Plan, shape: ModelShape, machine: Machine, gpu: bool
) -> StageEstimate:
    stage, size = f"quantize {config.label}", shape.parameters * 2
    if isinstance(config, GgufConfig):
        # the converter writes 16 bits first; the quantizer holds one tensor in float32 beside its result
        bits = GGUF_BITS.get(config.type.upper(), 8.5)
        memory = LIGHT_RUNTIME + shape.vocabulary * shape.hidden * 8
        disk, seconds = size + shape.parameters * bits / 8, 15 + 2 * size / DISK_RATE
        return StageEstimate(stage, memory, int(disk), seconds, "includes the 16-bit file it starts from")
    group = shape.hidden if config.group_size == -1 else config.group_size
    disk = (shape.parameters - shape.linear_parameters) * 2 + shape.linear_parameters * (
        config.bits + 24 / group
    ) / 8
    rows = config.calibration_rows * recipe.prepare.max_length
    # input and output of a layer for every calibration token; the widest Hessian, its factor and its inverse
    activations = rows * shape.hidden * 2 * 2
    hessian = 3 * 4 * max(shape.hidden, shape.intermediate) ** 2
    if gpu:
        seconds, note = (
            60 + GPTQ_GPU_SECONDS * shape.parameters,
            "the model in main memory, layer by layer on the GPU",
        )
    else:
        scale = config.calibration_rows / 32 * 2 / machine.cpu_count
        seconds, note = 20 + GPTQ_CPU_SECONDS * shape.parameters * max(scale, 0.5), "on the CPU"
    return StageEstimate(stage, RUNTIME + size + activations + hessian, int(disk), seconds, note)


def _apart(recipe: Plan, shape: ModelShape, machine: Machine) -> list[StageEstimate]:
    config = recipe.adapter
    if config is None or config.on_16bit:
        return []
    base = _quantize(config.resident, recipe, shape, machine, gpu=False)
    base = replace(base, stage=f"quantize base {config.base}", note="once for all tenants of the base")
    # read in float32; converted tensor by tensor
    size = adapter_parameters(shape, recipe.train) * 4
    memory, note = LIGHT_RUNTIME + 2 * size, "the factors alone"
    return [
        base,
        StageEstimate(f"quantize adapter {config.own.type}", memory, size, 15 + size / DISK_RATE, note),
    ]


def _training_tokens(recipe: Plan) -> float | None:
    """At most what `max_steps` allows; else about 3 bytes of data file per token once rendered."""
    config = recipe.train
    if config.max_steps is not None:
        longest = min(config.max_length, recipe.prepare.max_length)
        return config.max_steps * config.batch_size * config.gradient_accumulation * longest
    size = _data_bytes(recipe.prepare.source)
    return None if size is None else config.epochs * size / 3


def _evaluated_tokens(recipe: Plan) -> float | None:
    """Tokens that one model reads and writes: rows a quarter of the longest, each answer's likelihood read
    on top where it is asked for (as much again, as in the demo)."""
    size = _data_bytes(recipe.prepare.source)
    length = min(recipe.prepare.max_length, recipe.evaluate.context_length)
    total = 0.0
    for task in recipe.evaluate.tasks:
        if isinstance(task, HeldoutTask) and (size is not None or task.max_items is not None):
            rows = float("inf") if size is None else 4 * size / 3 * recipe.prepare.split.test / length
            rows = min(rows, task.max_items or rows)
            total += rows * (length / 4 * (2 if task.choice else 1) + task.max_new_tokens)
        elif isinstance(task, LmEvalTask) and task.limit is not None:
            total += task.limit * length
        elif isinstance(task, HeldoutTask | LmEvalTask):
            return None
    return total


def _data_bytes(source: str) -> int | None:
    """Size of the data files, uncompressed (gzip counted five-fold); None where it cannot be known yet."""
    scheme, _, place = source.partition(":")
    if scheme == "path":
        path = Path(place).expanduser()
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    elif scheme == "package":
        distribution, _, pattern = place.partition("/")
        try:
            listed = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        files = [Path(str(file.locate())) for file in listed if pattern and file.match(pattern)]
    else:
        return None
    return sum(file.stat().st_size * (5 if file.suffix == ".gz" else 1) for file in files) or None


def _smaller(stage: str) -> str:
    if stage.startswith("train"):
        return (
            "lower train.batch_size (and raise gradient_accumulation), shorten rows, turn on "
            "gradient_checkpointing, or choose a smaller base"
        )
    return "free memory, choose a smaller base, or use a larger machine"
