"""What a recipe will need: memory, disk and time of each stage, from metadata and this machine's rates.

Memory and disk are upper ends of what to expect, not promises; each formula is stated where it is computed.
Times rest on earlier runs on this machine where there are comparable ones, else on its measured speed
(`flows.planning`); each entry says which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flows.formatting import size
from flows.planning.amounts import (
    Plan,
    data_bytes,
    evaluated_tokens,
    longest,
    measured_tokens,
    training_tokens,
)
from flows.planning.clock import Clock
from flows.planning.earlier import EarlierRun
from flows.planning.machine import Machine, machine
from flows.planning.rates import PUBLISHED, ComputeRates
from stages import work
from stages.model_shape import ModelShape, describe_base
from stages.quantization import method_of
from stages.quantization.method import QuantizationConfig
from stages.training_memory import LIGHT_RUNTIME, RUNTIME, adapter_parameters, training_memory
from stages.work import Work

__all__ = ["Machine", "ModelShape", "StageEstimate", "describe_base", "estimate", "machine", "shortfalls"]

BIG_MODEL = 2_000_000_000
"""From this many parameters training on a CPU takes days, so a GPU is expected."""

BRANCH_TOKENS = 1024
"""Continuation tokens that an evaluation reads at once."""
LOGIT_COPIES = 8
HEAP_HOLES = 1.3
"""On a CPU batches of different lengths leave holes in the heap: the demo took 1.28 times its largest."""

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class StageEstimate:
    """`memory_bytes`: main memory for `device` cpu, the GPU's for gpu; `seconds` None: not known yet."""

    stage: str
    memory_bytes: int
    disk_bytes: int
    seconds: float | None
    note: str
    device: Device = "cpu"
    basis: str = ""
    """What the time rests on."""


def estimate(
    recipe: Plan, shape: ModelShape, machine: Machine, clock: Clock | None = None
) -> list[StageEstimate]:
    """One entry per stage in the order they run. Disk is what the stage adds and keeps.

    `clock`: this machine's (`flows.planning.clock`); without it times are those of another machine.
    """
    gpu = bool(machine.cuda) or shape.parameters >= BIG_MODEL
    clock = clock or Clock(ComputeRates(cores=machine.cpu_count))
    return [
        _resolve(recipe, shape, clock),
        _prepare(recipe, clock),
        _train(recipe, shape, machine, gpu, clock),
        _evaluate(recipe, shape, machine, clock),
        _merge(recipe, shape, clock),
        *(_quantize(config, recipe, shape, gpu, clock) for config in recipe.quantize),
        *_apart(recipe, shape, clock),
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


def _resolve(recipe: Plan, shape: ModelShape, clock: Clock) -> StageEstimate:
    scheme = recipe.base.source.partition(":")[0]
    converted = scheme in ("package", "pico")
    kept = shape.parameters * 2 if converted else shape.stored_bytes
    memory = LIGHT_RUNTIME + (shape.parameters * 6 if converted else 0)
    note = "converts to 16 bits" if converted else "copies or downloads the base"
    needed = work.resolving(shape, kept, converted)

    def earlier(run: EarlierRun) -> Work | None:
        alike = str(run.manifest.config["source"]).startswith(f"{scheme}:")
        return needed if alike and run.parameters == shape.parameters else None

    seconds, basis = clock.on_cpu("resolve", needed, "float32", earlier)
    return StageEstimate("resolve base", memory, kept, seconds, note, basis=basis)


def _prepare(recipe: Plan, clock: Clock) -> StageEstimate:
    config, stage, size = recipe.prepare, "prepare data", data_bytes(recipe.prepare.source)
    if size is None:
        return StageEstimate(stage, LIGHT_RUNTIME, 0, None, "size of the data not known before download")
    needed = work.preparing(size)
    scheme, _, place = config.source.partition(":")
    name = f"{scheme}:{Path(place).name if scheme == 'path' else place}"

    def earlier(run: EarlierRun) -> Work | None:
        same = str(run.manifest.config["source"]).rpartition("@")[0] == name
        return needed if same and run.manifest.config["format"] == config.format else None

    seconds, basis = clock.on_cpu("prepare", needed, "float32", earlier)
    note = f"{size / 1e6:.1f} MB of data"
    return StageEstimate(stage, LIGHT_RUNTIME, 2 * size, seconds, note, basis=basis)


def _train(recipe: Plan, shape: ModelShape, machine: Machine, gpu: bool, clock: Clock) -> StageEstimate:
    config, tokens = recipe.train, training_tokens(recipe)
    length = min(config.max_length, recipe.prepare.max_length)
    frozen: Literal["packed", "dequantized"] = "packed"
    if config.frozen_weights == "dequantized":
        frozen = "dequantized"
    elif config.frozen_weights == "auto" and not gpu:
        fits = training_memory(shape, config, length, "dequantized", gpu) <= machine.memory_available
        frozen = "dequantized" if fits else "packed"
    memory = int(training_memory(shape, config, length, frozen, gpu) * (1 if gpu else HEAP_HOLES))
    adapter = adapter_parameters(shape, config)
    note = f"{frozen} NF4, {adapter / 1e6:.1f}M adapter parameters, rows of up to {length} tokens"
    if gpu and config.optimizer.startswith("paged"):
        note += f"; {size(adapter * 8)} of optimizer state may move to main memory"

    def earlier(run: EarlierRun) -> Work | None:
        if run.parameters != shape.parameters:
            return None
        made, trained = run.manifest.metrics, run.manifest.config
        return work.training(shape, made["tokens"], trained["gradient_checkpointing"])

    seconds, basis = None, ""
    if tokens is not None:
        needed = work.training(shape, tokens, config.gradient_checkpointing)
        on_cpu = clock.on_cpu("train", needed, config.nf4.compute_dtype, earlier) if not gpu else None
        seconds, basis = on_cpu or clock.on_gpu(needed)
    # one finished adapter and at most two checkpoints with gradients' moments
    return StageEstimate("train adapter", memory, adapter * 28, seconds, note, "gpu" if gpu else "cpu", basis)


def _evaluate(recipe: Plan, shape: ModelShape, machine: Machine, clock: Clock) -> StageEstimate:
    """The merged model is the largest one measured: weights, keys and values, and float32 logits of a batch's
    branches and ends, which stand in memory eight times at the peak (measured: 3.0 to 4.5 GB for 135M)."""
    config, length = recipe.evaluate, longest(recipe)
    cache = 4 * shape.layers * shape.kv_heads * shape.head_size * length * config.batch_size
    logits = (BRANCH_TOKENS + config.batch_size**2) * shape.vocabulary * 4 * LOGIT_COPIES
    memory = RUNTIME + shape.parameters * 2 + cache + logits
    fits = any(memory <= held for _, held in machine.cuda)
    if not fits and config.compute_dtype == "float32":
        memory += shape.parameters * 2 + cache
    models = 3 + len(recipe.quantize) + (recipe.adapter is not None)
    tokens = evaluated_tokens(recipe)
    note = f"{models} models, one after the other; the merged one is the largest"

    def earlier(run: EarlierRun) -> Work | None:
        if run.parameters != shape.parameters:
            return None
        seen = measured_tokens(run.manifest.config, run.manifest.metrics, length)
        return None if seen is None else work.evaluation(shape, seen)

    seconds, basis = None, ""
    if tokens is None:
        note += "; give an lm-eval task a limit to get a time estimate"
    elif fits:
        seconds, basis = clock.on_gpu(work.evaluation(shape, tokens), models)
    else:
        needed = work.evaluation(shape, tokens)
        seconds, basis = clock.on_cpu("evaluate", needed, config.compute_dtype, earlier, models)
    return StageEstimate("evaluate", int(memory), 0, seconds, note, "gpu" if fits else "cpu", basis)


def _merge(recipe: Plan, shape: ModelShape, clock: Clock) -> StageEstimate:
    """One tensor at a time: an embedding is copied or converted, a linear weight has a float32 update."""
    embedding = shape.vocabulary * shape.hidden * 4
    linear = max(prod_in * prod_out for prod_in, prod_out in shape.linear_shapes().values()) * 8
    rank, merges = recipe.train.lora.rank, recipe.merge.candidates

    def earlier(run: EarlierRun) -> Work | None:
        if run.parameters != shape.parameters:
            return None
        return work.merge(shape, rank, run.manifest.config["base"] == "nf4")

    times = [
        clock.on_cpu("merge", work.merge(shape, rank, merge.base == "nf4"), "float32", earlier)
        for merge in merges
    ]
    note = "one tensor at a time" + (", into both the 16-bit and the NF4 weights" if len(merges) > 1 else "")
    memory, disk = LIGHT_RUNTIME + max(embedding, linear), len(merges) * shape.parameters * 2
    duration, (_, basis) = sum(seconds for seconds, _ in times), times[-1]
    return StageEstimate("merge", memory, disk, duration, note, basis=basis)


def _quantize(
    config: QuantizationConfig, recipe: Plan, shape: ModelShape, gpu: bool, clock: Clock
) -> StageEstimate:
    method, row_length = method_of(config), recipe.prepare.max_length
    cost, stage = method.cost(config, shape, row_length), f"quantize {config.label}"
    if gpu and cost.gpu_seconds is not None:
        return StageEstimate(
            stage, cost.memory_bytes, cost.disk_bytes, cost.gpu_seconds, cost.gpu_note, basis=PUBLISHED
        )

    def earlier(run: EarlierRun) -> Work | None:
        made = run.manifest.config
        if made["method"] != config.method or run.parameters != shape.parameters:
            return None
        return method.cost(method.config.model_validate(made), shape, row_length).work

    seconds, basis = clock.on_cpu("quantize", cost.work, cost.dtype, earlier)
    return StageEstimate(stage, cost.memory_bytes, cost.disk_bytes, seconds, cost.note, basis=basis)


def _apart(recipe: Plan, shape: ModelShape, clock: Clock) -> list[StageEstimate]:
    config = recipe.adapter
    if config is None or config.on_16bit:
        return []
    base = _quantize(config.resident, recipe, shape, False, clock)
    base = replace(base, stage=f"quantize base {config.base}", note="once for all tenants of the base")
    # read in float32; converted tensor by tensor
    size = adapter_parameters(shape, recipe.train) * 4
    memory, stage = LIGHT_RUNTIME + 2 * size, f"quantize adapter {config.own.type}"
    seconds, basis = clock.on_cpu("quantize", work.files(size), "float32", lambda _: None)
    return [base, StageEstimate(stage, memory, size, seconds, "the factors alone", basis=basis)]


def _smaller(stage: str) -> str:
    if stage.startswith("train"):
        return (
            "lower train.batch_size (and raise gradient_accumulation), shorten rows, turn on "
            "gradient_checkpointing, or choose a smaller base"
        )
    return "free memory, choose a smaller base, or use a larger machine"
