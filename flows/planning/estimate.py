"""What a recipe will need: memory, disk and time of each stage, from metadata and this machine's rates.

Memory is what a run that was alike took on this machine, else reckoned for the longest rows that the recipe
allows, each formula where it is computed; disk is an upper end. Times rest on earlier runs on this machine
where there are comparable ones, else on its measured speed (`flows.planning`); each entry says which.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from flows.formatting import size
from flows.planning.alike import Alike
from flows.planning.amounts import Plan, longest, training_amounts
from flows.planning.clock import Clock
from flows.planning.earlier import EarlierRun
from flows.planning.evaluations import evaluation_work, form_of, forms, measured_rows, splits
from flows.planning.machine import Machine, machine
from flows.planning.rates import PUBLISHED, ComputeRates
from flows.planning.rows import RowFigures, row_figures, training_bytes
from flows.planning.sources import all_data_bytes
from flows.recipe import Recipe
from stages import work
from stages.config.evaluate import LmEvalTask
from stages.config.feed import FEED, feed_of
from stages.memory import Frozen, adapter_parameters, embedding_memory, evaluation_memory, training_memory
from stages.model_shape import ModelShape, describe_base
from stages.quantization import method_of
from stages.quantization.method import QuantizationConfig
from stages.work import Work

__all__ = ["Machine", "ModelShape", "StageEstimate", "describe_base", "estimate", "machine"]

BIG_MODEL = 2_000_000_000
"""From this many parameters training on a CPU takes days, so a GPU is expected."""

TRAINING, EVALUATION = 60_000_000, 75_000_000
"""Bytes beside what all stages import: TRL, datasets, lm-eval, and the code of kernels."""
LIGHT = -45_000_000
"""A stage that computes little touches less of the libraries' code than their import does."""
STREAM = -105_000_000
"""The same of a merge, before it reads a tokenizer at its end."""

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
    memory_basis: str = ""
    """What the run made whose peak the memory is; empty where it is reckoned."""


def estimate(
    recipe: Plan,
    shape: ModelShape,
    machine: Machine,
    clock: Clock | None = None,
    feed: Path | None = None,
) -> list[StageEstimate]:
    """One entry per stage in the order they run. Disk is what the stage adds and keeps.

    `clock`: this machine's (`flows.planning.clock`); without it times are those of another machine.
    `feed`: a file with the rows of the feed that the recipe reads, if it does.
    """
    gpu = bool(machine.cuda) or shape.parameters >= BIG_MODEL
    clock = clock or Clock(ComputeRates(cores=machine.cpu_count))
    figures = row_figures(recipe.prepare, feed)
    return [
        _resolve(recipe, shape, machine, clock),
        _prepare(recipe, shape, machine, clock, feed),
        *(_train(plan, shape, machine, gpu, clock, figures) for plan in _trainings(recipe)),
        _evaluate(recipe, shape, machine, clock, figures),
        _merge(recipe, shape, machine, clock),
        *(_quantize(config, recipe, shape, machine, gpu, clock) for config in recipe.quantize),
        *_apart(recipe, shape, machine, clock),
    ]


def _as_measured(
    row: StageEstimate, clock: Clock, stage: str, alike: Callable[[EarlierRun], bool]
) -> StageEstimate:
    """The row with the memory of a run of the stage that was alike, where there was one."""
    peak = clock.peak(stage, alike) if row.device == "cpu" else None
    return row if peak is None else replace(row, memory_bytes=peak[0], memory_basis=peak[1])


def _resolve(recipe: Plan, shape: ModelShape, machine: Machine, clock: Clock) -> StageEstimate:
    scheme = recipe.base.source.partition(":")[0]
    converted = scheme in ("package", "pico")
    kept = shape.parameters * 2 if converted else shape.stored_bytes
    # converted tensors are held until the shards are written
    memory = machine.imports + LIGHT + (shape.parameters * 4 if converted else 0)
    note = "converts to 16 bits" if converted else "copies or downloads the base"
    needed = work.resolving(shape, kept, converted)

    def earlier(run: EarlierRun) -> Work | None:
        same = str(run.manifest.config["source"]).startswith(f"{scheme}:")
        return needed if same and run.parameters == shape.parameters else None

    seconds, basis = clock.on_cpu("resolve", needed, "float32", earlier)
    row = StageEstimate("resolve base", memory, kept, seconds, note, basis=basis)
    return _as_measured(row, clock, "resolve", lambda run: earlier(run) is not None)


def _prepare(
    recipe: Plan, shape: ModelShape, machine: Machine, clock: Clock, feed: Path | None
) -> StageEstimate:
    config, stage, held = recipe.prepare, "prepare data", all_data_bytes(recipe.prepare, feed)
    memory = machine.imports + LIGHT
    if held is None:
        return StageEstimate(stage, memory, 0, None, "size of the data not known before download")
    needed = work.preparing(held)
    named = feed_of(config.source)
    scheme, _, place = f"{FEED}:{named[0]}".partition(":") if named else config.source.partition(":")
    name = f"{scheme}:{Path(place).name if scheme == 'path' else place}"

    def earlier(run: EarlierRun) -> Work | None:
        same = str(run.manifest.config["source"]).rpartition("@")[0] == name
        return needed if same and run.manifest.config["format"] == config.format else None

    seconds, basis = clock.on_cpu("prepare", needed, "float32", earlier)
    note = f"{size(held)} of data"
    row, alike = StageEstimate(stage, memory, 2 * held, seconds, note, basis=basis), Alike(recipe, shape)
    return _as_measured(row, clock, "prepare", lambda run: alike.rows([run.manifest]))


def _trainings(recipe: Plan) -> list[Plan]:
    """The recipe with each of its trainings, one after the other, as the only one."""
    whole = cast(Recipe, recipe)
    many = recipe.train.method != "sft"
    return [whole.model_copy(update={"train": one}) for one in recipe.train.trainings] if many else [recipe]


def _train(
    recipe: Plan,
    shape: ModelShape,
    machine: Machine,
    gpu: bool,
    clock: Clock,
    figures: RowFigures | None,
) -> StageEstimate:
    config, amounts = recipe.train, training_amounts(recipe, figures)
    frozen, memory = _training_memory(recipe, shape, machine, gpu)
    adapter = adapter_parameters(shape, config)
    rows = f"rows of up to {_longest_trained(recipe)} tokens"
    note = f"{frozen} NF4, {adapter / 1e6:.1f}M adapter parameters, {rows}"
    held, kept = training_bytes(figures, config.as_run)
    memory += 0 if gpu else held
    note += f"; its rows are on disk meanwhile: {size(kept)}" * bool(kept)
    if gpu and config.optimizer.startswith("paged"):
        note += f"; {size(adapter * 8)} of optimizer state may move to main memory"
    alike = Alike(recipe, shape)

    def earlier(run: EarlierRun) -> Work | None:
        made, trained = run.manifest.metrics, run.manifest.config
        same = run.parameters == shape.parameters and trained.get("method", "sft") == config.method
        if not same or amounts is None:
            return None
        return amounts.with_tokens(made["tokens"]).work(shape, trained["gradient_checkpointing"])

    if amounts is not None:
        for run in clock.alike("train", lambda run: alike.trained_as_long(run, frozen))[:1]:
            amounts = amounts.with_tokens(run.manifest.metrics["tokens"])
    seconds, basis = None, ""
    if amounts is not None:
        needed = amounts.work(shape, config.gradient_checkpointing)
        on_cpu = clock.on_cpu("train", needed, config.nf4.compute_dtype, earlier) if not gpu else None
        seconds, basis = on_cpu or clock.on_gpu(needed)
    disk = adapter * 28 + kept  # an adapter, at most two checkpoints with gradients' moments, and the rows
    row = StageEstimate(config.label, memory, disk, seconds, note, "gpu" if gpu else "cpu", basis)
    return _as_measured(row, clock, "train", lambda run: alike.trained(run, frozen))


def _training_memory(recipe: Plan, shape: ModelShape, machine: Machine, gpu: bool) -> tuple[Frozen, int]:
    """How the frozen weights are held, as the stage decides it, and bytes at the peak."""
    config, beside = recipe.train, 0 if gpu else machine.imports + TRAINING

    def needed(frozen: Frozen) -> int:
        return beside + training_memory(shape, config, _longest_trained(recipe), frozen, gpu)

    fits = not gpu and needed("dequantized") <= machine.memory_available
    frozen = config.frozen_weights
    if frozen == "auto":
        frozen = "dequantized" if fits else "packed"
    return frozen, needed(frozen)


def _longest_trained(recipe: Plan) -> int:
    """Tokens of the longest sequence of a step."""
    longest_row = min(recipe.train.max_length, recipe.prepare.max_length)
    return recipe.train.max_length if recipe.train.as_run.packing else longest_row


def _evaluate(
    recipe: Plan, shape: ModelShape, machine: Machine, clock: Clock, figures: RowFigures | None
) -> StageEstimate:
    """The merged model is the largest one measured."""
    config, length = recipe.evaluate, longest(recipe)
    ladder = (recipe.ladder.chats, recipe.ladder.tokens) if recipe.ladder else (0, 0)
    beside = machine.imports + EVALUATION
    memory = beside + evaluation_memory(shape, config, length, ladder)
    fits = any(memory <= held for _, held in machine.cuda)
    embedding = 0 if fits else embedding_memory(shape, config, recipe.ladder is not None)
    models = 3 + len(recipe.quantize) + (recipe.adapter is not None) + recipe.train.goes_on
    held = splits(recipe, figures)
    works = [evaluation_work(shape, form, held, length) for form in forms(recipe)]
    note = f"{models} models, one after the other; the merged one is the largest"
    note += ", with the base beside it for the metric embedding" if embedding else ""

    def earlier(run: EarlierRun) -> Work | None:
        if run.parameters != shape.parameters:
            return None
        return evaluation_work(shape, form_of(run), measured_rows(held, run), length)

    seconds, basis = None, ""
    known = [needed for needed in works if needed is not None]
    if len(known) < len(works):
        tasks = any(isinstance(task, LmEvalTask) for task in config.tasks)
        what = "give an lm-eval task a limit" if tasks else "have the data on this machine"
        note += f"; {what} to get a time estimate"
    else:
        mean = functools.reduce(Work.plus, known).times(1 / len(known))
        on_cpu = (
            clock.on_cpu("evaluate", mean, config.compute_dtype, earlier, len(known)) if not fits else None
        )
        seconds, basis = on_cpu or clock.on_gpu(mean, len(known))
    memory = max(memory, beside + embedding)
    row = StageEstimate("evaluate", memory, 0, seconds, note, "gpu" if fits else "cpu", basis)
    return _as_measured(row, clock, "evaluate", Alike(recipe, shape).evaluated)


def _merge(recipe: Plan, shape: ModelShape, machine: Machine, clock: Clock) -> StageEstimate:
    """Pieces of a tensor; into NF4 a linear weight whole with its float32 update, and another in 16 bits."""
    rank, merges = recipe.train.lora.rank, recipe.merge.candidates
    linear = max(prod_in * prod_out for prod_in, prod_out in shape.linear_shapes().values())
    whole = 12 * linear if any(merge.base == "nf4" for merge in merges) else 0

    def earlier(run: EarlierRun) -> Work | None:
        if run.parameters != shape.parameters:
            return None
        return work.merge(shape, rank, run.manifest.config["base"] == "nf4")

    times = [
        clock.on_cpu("merge", work.merge(shape, rank, merge.base == "nf4"), "float32", earlier)
        for merge in merges
    ]
    note = "tensors in pieces" + (", into both the 16-bit and the NF4 weights" if len(merges) > 1 else "")
    memory = machine.imports + max(LIGHT, STREAM + whole)
    disk = len(merges) * shape.parameters * 2
    duration, (_, basis) = sum(seconds for seconds, _ in times), times[-1]
    row = StageEstimate("merge", memory, disk, duration, note, basis=basis)
    return _as_measured(row, clock, "merge", Alike(recipe, shape).merged)


def _quantize(
    config: QuantizationConfig, recipe: Plan, shape: ModelShape, machine: Machine, gpu: bool, clock: Clock
) -> StageEstimate:
    method, row_length = method_of(config), recipe.prepare.max_length
    cost, stage = method.cost(config, shape, row_length), f"quantize {config.label}"
    memory = machine.imports + cost.memory_bytes
    if gpu and cost.gpu_seconds is not None:
        return StageEstimate(stage, memory, cost.disk_bytes, cost.gpu_seconds, cost.gpu_note, basis=PUBLISHED)

    def earlier(run: EarlierRun) -> Work | None:
        made = run.manifest.config
        if made["method"] != config.method or run.parameters != shape.parameters:
            return None
        return method.cost(method.config.model_validate(made), shape, row_length).work

    seconds, basis = clock.on_cpu("quantize", cost.work, cost.dtype, earlier)
    row = StageEstimate(stage, memory, cost.disk_bytes, seconds, cost.note, basis=basis)
    alike = Alike(recipe, shape)
    return _as_measured(row, clock, "quantize", lambda run: alike.quantized(run, config))


def _apart(recipe: Plan, shape: ModelShape, machine: Machine, clock: Clock) -> list[StageEstimate]:
    config = recipe.adapter
    if config is None or config.on_16bit:
        return []
    base = _quantize(config.resident, recipe, shape, machine, False, clock)
    base = replace(base, stage=f"quantize base {config.base}", note="once for all tenants of the base")
    # read in float32; converted tensor by tensor
    size = adapter_parameters(shape, recipe.train) * 4
    memory, stage = machine.imports + LIGHT + 2 * size, f"quantize adapter {config.own.type}"
    seconds, basis = clock.on_cpu("quantize", work.files(size), "float32", lambda _: None)
    return [base, StageEstimate(stage, memory, size, seconds, "the factors alone", basis=basis)]
