"""Lengths that the recipe asks for against the tokens that the base can read."""

from __future__ import annotations

from collections.abc import Iterator

from flows.recipe import Recipe
from stages.config.evaluate import HeldoutTask


def problems(recipe: Recipe, positions: int | None) -> Iterator[str]:
    """A line for each length that leaves no room, or for which the base (`positions`; None: not known) is too
    short. An evaluation's context ends with the model's own, and calibration rows are cut to it."""
    yield from _answers(recipe, positions)
    if positions is None:
        return
    rows, served = recipe.prepare.max_length, recipe.deploy.context_length if recipe.deploy else 0
    if rows > positions:
        yield (
            f"prepare.max_length: {rows:,}, and the base reads at most {positions:,} tokens: longer rows "
            f"could not be trained on or measured; set it to {positions} or less"
        )
    if served > positions:
        yield (
            f"deploy.context_length: {served:,}, and the base reads at most {positions:,} tokens; set it to "
            f"{positions} or less"
        )


def _answers(recipe: Recipe, positions: int | None) -> Iterator[str]:
    context = recipe.evaluate.context_length
    setting = f"evaluate.context_length {context}"
    if positions is not None and positions < context:
        context, setting = positions, f"the {positions:,} tokens that the base reads"
    for number, task in enumerate(recipe.evaluate.tasks):
        if isinstance(task, HeldoutTask) and task.max_new_tokens >= context:
            where = f"evaluate.tasks.{number}.max_new_tokens"
            yield f"{where}: {task.max_new_tokens} leave no room for a prompt in {setting}"
