"""What a machine lacks for a recipe, and the cheapest change of the recipe with which it would do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flows.formatting import size
from flows.planning.clock import Clock
from flows.planning.estimate import StageEstimate, estimate
from flows.planning.machine import Machine
from flows.recipe import Recipe
from stages.config.train import TrainConfig
from stages.model_shape import ModelShape

Change = Mapping[str, Any]
"""Dotted key of the recipe → its new value, as `--set` takes it."""


def shortfalls(
    recipe: Recipe,
    shape: ModelShape,
    estimates: Iterable[StageEstimate],
    machine: Machine,
    clock: Clock | None = None,
) -> list[str]:
    """What this machine lacks, one plain sentence each; empty where all fits. `estimates`: of the recipe."""
    estimates = list(estimates)
    largest = max((held for _, held in machine.cuda), default=0)
    missing = []
    for stage in estimates:
        need = f"{stage.stage} needs about {size(stage.memory_bytes)} of"
        if stage.device == "gpu" and not machine.cuda:
            missing.append(f"{need} GPU memory, this machine has no GPU: run it on one that has")
        elif not _fits(stage, machine):
            there = f"GPU memory, the largest GPU here has {size(largest)}"
            if stage.device == "cpu":
                there = f"memory, this machine has {size(machine.memory_available)} free"
            missing.append(f"{need} {there}: {_remedy(recipe, shape, stage, machine, clock)}")
    disk = sum(stage.disk_bytes for stage in estimates)
    if disk > machine.disk_free:
        missing.append(
            f"the run needs about {size(disk)} of disk, {size(machine.disk_free)} are free: make "
            "room, or set TUNELINE_HOME to a larger disk"
        )
    return missing


def _fits(stage: StageEstimate, machine: Machine) -> bool:
    if stage.device == "gpu":
        return stage.memory_bytes <= max((held for _, held in machine.cuda), default=0)
    return stage.memory_bytes <= machine.memory_available


def _remedy(
    recipe: Recipe, shape: ModelShape, stage: StageEstimate, machine: Machine, clock: Clock | None
) -> str:
    """The first of the changes, from the cheapest on, with which the stage fits; else what is left to do."""
    tried = False
    for change in _changes(recipe, stage):
        tried = True
        rows = estimate(_changed(recipe, change), shape, machine, clock)
        same = next(row for row in rows if row.stage == stage.stage)
        if _fits(same, machine):
            settings = " ".join(f"--set {key}={str(value).lower()}" for key, value in change.items())
            return f"with {settings} it needs {size(same.memory_bytes)}"
    nothing = "no smaller setting is enough; " if tried else ""
    return f"{nothing}free memory, choose a smaller base, or use a larger machine"


def _changes(recipe: Recipe, row: StageEstimate) -> Iterator[Change]:
    """What makes a stage smaller, from what costs least to what changes the result most."""
    stage = row.stage
    if stage.startswith("train"):
        training = next(training for training in recipe.train.trainings if training.label == stage)
        yield from _of_training(recipe, training, row.device == "gpu")
    elif stage == "evaluate":
        for batch in _halves(recipe.evaluate.batch_size):
            yield {"evaluate.batch_size": batch}
        if recipe.ladder is not None:
            for chats in _halves(recipe.ladder.chats, least=2):
                yield {"evaluate.batch_size": 1, "ladder.chats": chats}
            yield {"evaluate.batch_size": 1, "ladder": "null"}
    elif stage.startswith("quantize"):
        for place, config in enumerate(recipe.quantize):
            if stage == f"quantize {config.label}":
                for rows in _halves(getattr(config, "calibration_rows", 0), least=16):
                    yield {f"quantize.{place}.calibration_rows": rows}


def _of_training(recipe: Recipe, training: TrainConfig, gpu: bool) -> Iterator[Change]:
    """Smaller batches with as many rows per step cost nothing of the result, recomputing and packed weights
    time; shorter rows leave data out, and a lower rank is another adapter."""
    config, section = training.as_run, training.section
    rows = config.batch_size * config.gradient_accumulation
    batches: list[Change] = [
        {f"{section}.batch_size": batch, f"{section}.gradient_accumulation": rows // batch}
        for batch in _halves(config.batch_size, least=2 if training.method == "kto" else 1)
        if rows % batch == 0
    ]
    yield from batches
    smallest = batches[-1] if batches else {}
    slower: Change = smallest
    if not config.gradient_checkpointing:
        yield {"train.gradient_checkpointing": True}
        slower = {**smallest, "train.gradient_checkpointing": True}
        yield slower
    if config.frozen_weights == "dequantized":
        slower = {**slower, "train.frozen_weights": "packed"}
        yield slower
    if gpu and config.optimizer == "adamw":
        slower = {**slower, "train.optimizer": "paged_adamw_32bit"}
        yield slower
    shorter = slower
    for length in _halves(recipe.prepare.max_length, least=64):
        shorter = {**slower, "prepare.max_length": length, "train.max_length": length}
        yield shorter
    for rank in _halves(config.lora.rank, least=4):
        yield {**shorter, "train.lora.rank": rank}


def _halves(value: int, least: int = 1) -> Iterator[int]:
    """Half of it, half of that, and so on, none below `least`."""
    while value // 2 >= least:
        value //= 2
        yield value


def _changed(recipe: Recipe, change: Change) -> Recipe:
    tree: Any = recipe.model_dump(mode="json")
    for key, value in change.items():
        *sections, last = key.split(".")
        part = tree
        for section in sections:
            part = part[int(section)] if isinstance(part, list) else part.setdefault(section, {})
        part[last] = None if value == "null" else value
    return Recipe.model_validate(tree)
