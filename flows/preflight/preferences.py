"""Recipes with answers that somebody preferred, or called good or bad: what cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from flows.recipe import Recipe
from stages.config.evaluate import LabelledTask, PreferenceTask

_PAIRS = "set prepare.format: preferences, for data with chosen and rejected"
_LABELS = "set prepare.format: unpaired-preferences, for data with label or kto_tag"


def problems(recipe: Recipe) -> Iterator[str]:
    """What reads pairs of answers, or labels, where the data have none, and those that nothing reads."""
    yield from _pairs(recipe)
    yield from _labels(recipe)


def _pairs(recipe: Recipe) -> Iterator[str]:
    given, trained = recipe.prepare.format == "preferences", recipe.train.compares
    numbers = [n for n, task in enumerate(recipe.evaluate.tasks) if isinstance(task, PreferenceTask)]
    if trained and not given:
        yield f"train.method: {recipe.train.method} compares two answers to each prompt; {_PAIRS}"
    if numbers and not given:
        yield f"evaluate.tasks.{numbers[0]}: a preference task compares two answers to each prompt; {_PAIRS}"
    if given and not (trained or numbers):
        yield (
            "prepare.format: preferences, and nothing reads the rejected answers: set train.method: dpo, or "
            "add a task of kind preference to evaluate.tasks"
        )


def _labels(recipe: Recipe) -> Iterator[str]:
    given, trained = recipe.prepare.format == "unpaired-preferences", recipe.train.method == "kto"
    tasks = {n: task.name for n, task in enumerate(recipe.evaluate.tasks) if isinstance(task, LabelledTask)}
    if trained and not given:
        yield f"train.method: kto learns from answers that are each called good or bad; {_LABELS}"
    if tasks and not given:
        yield f"evaluate.tasks.{min(tasks)}: a labelled task compares good answers with bad ones; {_LABELS}"
    if given and not (trained or tasks):
        yield (
            "prepare.format: unpaired-preferences, and nothing reads the bad answers: set train.method: kto, "
            "or add a task of kind labelled to evaluate.tasks"
        )
    for number, rule in enumerate(recipe.gate.tasks if recipe.gate is not None else ()):
        if rule.slice is not None and rule.task in tasks.values():
            yield (
                f"gate.tasks.{number}.slice: {rule.metric} compares all good answers with all bad ones, "
                "so a slice has no figure of its own; take slice out"
            )
