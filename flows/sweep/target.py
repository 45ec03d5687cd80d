"""What trials are compared by: the gate's metric, on rows of the validation split."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from flows.errors import InvalidRecipe
from flows.preflight.sections import task_metrics
from flows.recipe import Recipe
from flows.sweep.config import Objective
from registry import Artifact
from registry.evaluation_results import Metric
from stages.config.evaluate import EvaluateConfig, HeldoutTask, LabelledTask, PerplexityTask, PreferenceTask
from stages.config.judge_metric import JudgeMetric
from stages.config.metrics import DEFAULT
from stages.errors import InvalidInput

HeldOut = HeldoutTask | PreferenceTask | LabelledTask | PerplexityTask


@dataclass(frozen=True)
class Target:
    """`task`: as it asks the validation split, with what gives `metric` alone; `asked`: the recipe's name for
    it."""

    task: HeldOut
    metric: str
    asked: str

    def config(self, recipe: Recipe) -> EvaluateConfig:
        """How a trial of `recipe` is measured: base in NF4 and adapter, as it was trained."""
        changes = {"tasks": (self.task,), "questions": (), "nf4": recipe.train.nf4}
        return recipe.evaluate.model_copy(update=changes)

    def score(self, evaluation: Artifact) -> Metric:
        """What an evaluation measured. Raises `InvalidInput` where the data have no such score."""
        scored: dict[str, Metric] = evaluation.manifest.metrics["tasks"][self.task.name]
        if self.metric not in scored:
            raise InvalidInput(
                f"objective.metric: the validation rows give no {self.metric}; they give {', '.join(scored)}"
            )
        return scored[self.metric]


def target(recipe: Recipe, objective: Objective | None) -> Target:
    """What the trials of a sweep are compared by. Raises `InvalidRecipe` where it cannot be measured on
    validation rows."""
    found = objective or _of_the_gate(recipe) or _first(recipe)
    if found is None:
        raise InvalidRecipe(
            "objective: the recipe has no task on held-out rows (kind heldout, preference, labelled or "
            "perplexity); add one to evaluate.tasks"
        )
    scores = task_metrics(recipe, {})
    task = next((task for task in recipe.evaluate.tasks if task.name == found.task), None)
    if task is None:
        raise InvalidRecipe(f"objective.task: {_absent(found.task, 'a task of evaluate.tasks', scores)}")
    if not isinstance(task, HeldOut):
        raise InvalidRecipe(
            f"objective.task: {found.task} is of kind {task.kind}, which has no validation rows; name a task "
            "of kind heldout, preference, labelled or perplexity"
        )
    known = scores[task.name] or ()
    if found.metric.partition("[")[0] not in known:
        what = f"a metric of the task {task.name}"
        raise InvalidRecipe(f"objective.metric: {_absent(found.metric, what, known)}")
    if recipe.prepare.split.validation == 0:
        raise InvalidRecipe(
            "prepare.split.validation: 0 leaves no rows to choose by; set it above 0, for example 0.1"
        )
    return Target(_on_validation(task, found.metric), found.metric, task.name)


def _of_the_gate(recipe: Recipe) -> Objective | None:
    held_out = {task.name for task in recipe.evaluate.tasks if isinstance(task, HeldOut)}
    every = recipe.gate.tasks if recipe.gate is not None else ()
    rules = [rule for rule in every if rule.slice is None and rule.task in held_out]
    first = min(rules, key=lambda rule: rule.role != "improve", default=None)
    return None if first is None else Objective(task=first.task, metric=first.metric)


def _first(recipe: Recipe) -> Objective | None:
    for task in recipe.evaluate.tasks:
        if isinstance(task, HeldoutTask):
            return Objective(task=task.name, metric=task.metrics[0].scores[0])
        if isinstance(task, PreferenceTask | LabelledTask | PerplexityTask):
            return Objective(task=task.name, metric=task.scores[0])
    return None


def _on_validation(task: HeldOut, metric: str) -> HeldOut:
    """The task on validation rows, under a name of its own: nobody takes it for the one that judges."""
    changes: dict[str, object] = {"name": f"{task.name} on validation", "split": "validation"}
    if isinstance(task, PreferenceTask | LabelledTask | PerplexityTask):
        return task.model_copy(update=changes)
    figure = metric.partition("[")[0]
    metrics = tuple(one for one in task.metrics if figure in one.scores) or DEFAULT
    for one in metrics:
        if isinstance(one, JudgeMetric) and one.answers is not None:
            raise InvalidRecipe(
                f"objective.metric: {metric} compares with recorded answers ({one.answers}), none of them "
                "is to a validation row; name another metric, or leave its answers out"
            )
    return task.model_copy(update={**changes, "metrics": metrics, "choice": metric == "choice_acc"})


def _absent(name: str, what: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is not {what}{hint} (expected one of {', '.join(sorted(known)) or 'none'})"
