"""How much a recipe asks for, as far as it can be known: tokens trained on and evaluated, bytes of data."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from flows.recipe import AdapterConfig, LadderConfig
from stages.config.base import BaseConfig
from stages.config.evaluate import EvaluateConfig, HeldoutTask, LmEvalTask
from stages.config.merge import MergeConfig
from stages.config.prepare import PrepareConfig
from stages.config.train import TrainConfig
from stages.quantization.method import QuantizationConfig

COMPARED = 1.5
"""Comparisons with another model that an evaluation of the ladder has on average."""


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
    def quantize(self) -> tuple[QuantizationConfig, ...]: ...
    @property
    def adapter(self) -> AdapterConfig | None: ...
    @property
    def evaluate(self) -> EvaluateConfig: ...
    @property
    def ladder(self) -> LadderConfig | None: ...


def training_tokens(recipe: Plan) -> float | None:
    """At most what `max_steps` allows; else about 3 bytes of data file per token once rendered."""
    config = recipe.train
    if config.max_steps is not None:
        longest = min(config.max_length, recipe.prepare.max_length)
        return config.max_steps * config.batch_size * config.gradient_accumulation * longest
    size = data_bytes(recipe.prepare.source)
    return None if size is None else config.epochs * size / 3


def evaluated_tokens(recipe: Plan) -> float | None:
    """Tokens that one model reads and writes: rows a quarter of the longest, each answer's likelihood read
    on top where it is asked for (as much again, as in the demo); on the ladder each chat by both models."""
    size, length = data_bytes(recipe.prepare.source), longest(recipe)
    total = 0.0
    for task in recipe.evaluate.tasks:
        if isinstance(task, HeldoutTask) and (size is not None or task.max_items is not None):
            rows = float("inf") if size is None else 4 * size / 3 * recipe.prepare.split.test / length
            total += min(rows, task.max_items or rows) * _item(length, task.choice, task.max_new_tokens)
        elif isinstance(task, LmEvalTask) and task.limit is not None:
            total += task.limit * length
        elif isinstance(task, HeldoutTask | LmEvalTask):
            return None
    return total + (2 * COMPARED * recipe.ladder.chats * length / 4 if recipe.ladder else 0)


def measured_tokens(config: Mapping[str, Any], metrics: Mapping[str, Any], length: int) -> float | None:
    """The same of an evaluation that was made, by its config and metrics; None for one of another sort."""
    total = 0.0
    for task in config["tasks"]:
        figures = metrics.get("tasks", {}).get(task["name"])
        if task["kind"] == "fidelity":
            total += 2 * task["chats"] * length / 4
        elif task["kind"] == "heldout" and figures:
            items = max(figure["n"] for figure in figures.values())
            total += items * _item(length, task["choice"], task["max_new_tokens"])
        elif task["kind"] == "lm-eval" and figures:
            total += max(figure["n"] for figure in figures.values()) * length
        else:
            return None
    return total


def longest(recipe: Plan) -> int:
    """Tokens of the longest row that an evaluation sees."""
    return min(recipe.prepare.max_length, recipe.evaluate.context_length)


def _item(length: int, choice: bool, new: int) -> float:
    return length / 4 * (2 if choice else 1) + new


def data_bytes(source: str) -> int | None:
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
