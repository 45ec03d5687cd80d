"""Every problem of a recipe that can be known before it runs."""

from __future__ import annotations

from flows.errors import InvalidRecipe
from flows.preflight import base, data, lengths, sections, surroundings
from flows.recipe import Recipe
from flows.settings import Settings
from stages.model_shape import ModelShape


def problems(recipe: Recipe, settings: Settings, shape: ModelShape | None) -> list[str]:
    """A line for each; `shape` None where the base cannot be described, which is its own problem."""
    answer = base.ask(recipe, shape.family) if shape is not None else base.LibraryAnswer()
    rows = data.look(recipe.prepare)
    metrics = sections.task_metrics(recipe, answer.metrics, rows.json_answers)
    lines = [*sections.problems(recipe, metrics), *rows.problems, *data.choices(recipe, rows)]
    lines += data.metrics(recipe, rows)
    lines += lengths.problems(recipe, shape.positions if shape is not None else None)
    if shape is not None:
        lines += base.problems(recipe, shape)
    lines += [*answer.problems, *surroundings.problems(recipe, settings)]
    return list(dict.fromkeys(lines))


def refuse_problems(recipe: Recipe, settings: Settings, shape: ModelShape) -> None:
    """Raise `InvalidRecipe` with every problem on a line of its own."""
    if reasons := problems(recipe, settings, shape):
        many = "1 problem" if len(reasons) == 1 else f"{len(reasons)} problems"
        raise InvalidRecipe(
            "\n  ".join([f"{recipe.name}: {many}, found before anything was done:", *reasons])
        )
