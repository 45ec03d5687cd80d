"""What of the search space cannot work, or does not fit this machine: said before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flows.errors import InvalidRecipe
from flows.planning.clock import Clock, earlier_here
from flows.planning.estimate import estimate, machine
from flows.planning.shortfalls import shortfalls
from flows.preflight import base
from flows.preflight.sections import problems, task_metrics
from flows.recipe import Recipe
from flows.settings import Settings
from flows.sweep.space import Parameter, in_words, with_values
from stages.errors import InsufficientResources
from stages.memory import Frozen, training_memory
from stages.model_shape import ModelShape

OF_MODULES = (
    "train.lora", "train.lora.target_modules", "train.lora.layers", "train.lora.pattern",
    "train.lora.modules_to_save", "train.packing",
)  # fmt: skip
"""Keys whose values only the libraries can judge."""


def refuse_values(recipe: Recipe, parameters: Sequence[Parameter], shape: ModelShape) -> None:
    """Raise `InvalidRecipe` with every value that would keep the recipe from working, which works without
    them."""
    if reasons := list(dict.fromkeys(_problems(recipe, parameters, shape))):
        lines = "\n  ".join(reasons)
        raise InvalidRecipe(f"{recipe.name}: the search space has values that cannot work:\n  {lines}")


def _problems(recipe: Recipe, parameters: Sequence[Parameter], shape: ModelShape) -> Iterator[str]:
    metrics = task_metrics(recipe, {})
    known = set(problems(recipe, metrics))
    for parameter in parameters:
        for value in parameter.ends:
            tried = {parameter.key: value}
            changed = with_values(recipe, tried)
            found = [problem for problem in problems(changed, metrics) if problem not in known]
            if parameter.key in OF_MODULES:
                found += base.ask(changed, shape.family).problems
            yield from (f"{in_words(tried)}: {problem}" for problem in found)


def largest(recipe: Recipe, parameters: Sequence[Parameter], shape: ModelShape, gpu: bool) -> dict[str, Any]:
    """Of each key the value with which a training holds the most: together the largest of the space."""
    values: dict[str, Any] = {}
    for parameter in parameters:
        needed = {
            place: _held(with_values(recipe, {**values, parameter.key: value}), shape, gpu)
            for place, value in enumerate(parameter.ends)
        }
        values[parameter.key] = parameter.ends[max(needed, key=lambda place: needed[place])]
    return values


def _held(recipe: Recipe, shape: ModelShape, gpu: bool) -> int:
    """Bytes, with frozen weights as the recipe says or packed: which they are is decided by what is free."""
    config, longest = recipe.train, min(recipe.train.max_length, recipe.prepare.max_length)
    frozen: Frozen = "packed"
    if config.frozen_weights != "auto":
        frozen = config.frozen_weights
    return max(training_memory(shape, one, longest, frozen, gpu) for one in config.trainings)


def refuse_largest(
    recipe: Recipe, parameters: Sequence[Parameter], shape: ModelShape, settings: Settings
) -> None:
    """Raise `InsufficientResources` if this machine cannot hold the largest of the search space."""
    here = machine(settings.root, settings.cache_folder)
    clock = Clock(earlier=earlier_here(settings))
    values = largest(recipe, parameters, shape, bool(here.cuda))
    tried = with_values(recipe, values)
    missing = shortfalls(tried, shape, estimate(tried, shape, here, clock), here, clock)
    if missing:
        raise InsufficientResources(
            f"the largest of the search space is {in_words(values)}, and there " + "; ".join(missing)
        )
