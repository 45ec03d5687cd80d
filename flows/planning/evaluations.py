"""What the evaluations of a run read and write, counted as `stages.backends.evaluate` computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from flows.evaluation_plan import EvaluationPlan
from flows.planning.amounts import Plan, longest
from flows.planning.earlier import EarlierRun
from flows.planning.rows import RowFigures, assumed
from flows.recipe import Recipe
from stages.config.evaluate import (
    SHIPPED,
    EvaluateConfig,
    FidelityTask,
    HeldoutTask,
    LabelledTask,
    LmEvalTask,
    MergeBaseTask,
    PerplexityTask,
    PreferenceTask,
    Task,
    task_folder,
)
from stages.model_shape import ModelShape
from stages.work import Through, Work, evaluation

QUESTION_TOKENS = 64
"""At most, of the answer to a question; `stages.backends.evaluate.measure` has it, which loads torch."""
BRANCH_TOKENS = 1024
"""Tokens whose logits are asked for at once; `stages.backends.evaluate.token_lm` has it, likewise."""
BRANCHES = 2
"""Groups of about one length that continuations are read in, after their contexts."""


@dataclass(frozen=True)
class Form:
    """One evaluation: `adapted`, of a model with an adapter beside its weights; `untuned`, of one that does
    not know where an answer ends; `merged`, of one whose weights are compared too."""

    config: EvaluateConfig
    adapted: bool = False
    untuned: bool = False
    merged: bool = False


@dataclass(frozen=True)
class Splits:
    """Rows that are held out, and what they are like."""

    figures: RowFigures
    test: float
    validation: float


def forms(recipe: Plan) -> list[Form]:
    """All evaluations of a run; where the merge is chosen, that too, and then the one into NF4 is taken."""
    plan = EvaluationPlan(cast(Recipe, recipe))
    into = "16bit" if recipe.merge.base == "16bit" else "nf4"
    found = [
        Form(plan.untuned.config, untuned=True),
        *([Form(plan.started.config, adapted=True)] if recipe.train.goes_on else []),
        Form(plan.tuned.config, adapted=True),
        Form(plan.merged_into(into).config, merged=recipe.ladder is not None),
        *(Form(plan.quantized(method).config) for method in recipe.quantize),
    ]
    if recipe.adapter is not None:
        found.append(Form(plan.unmerged(recipe.adapter).config, adapted=True))
    if len(recipe.merge.candidates) > 1:
        found.append(Form(plan.merge_choice))
    return found


def form_of(run: EarlierRun) -> Form:
    """The form that an earlier evaluation was of. Raises as pydantic does for one of another version."""
    config = EvaluateConfig.model_validate(run.manifest.config)
    kinds = {model.kind for model in run.parents("evaluation_of")}
    adapted = "adapter" in kinds
    return Form(config, adapted, config.nf4 is not None and not adapted, "merged" in kinds)


def splits(recipe: Plan, figures: RowFigures | None) -> Splits:
    """What is held out; without figures as many as a task's own limit says, a quarter as long as the
    longest."""
    if figures is None:
        return Splits(assumed(math.inf, longest(recipe) / 4), math.inf, math.inf)
    split = recipe.prepare.split
    return Splits(figures, figures.rows * split.test, figures.rows * split.validation)


def measured_rows(held: Splits, run: EarlierRun) -> Splits:
    """The same with as many rows as an earlier evaluation had."""
    tasks = run.manifest.metrics.get("tasks", {}).values()
    counts = [figure["n"] for figures in tasks for figure in figures.values()]
    return replace(held, test=max(counts)) if counts else held


def evaluation_work(shape: ModelShape, form: Form, held: Splits, longest_row: int) -> Work | None:
    """Of one evaluation; None where a task has no limit and its rows are not known."""
    config = form.config
    only = config.tasks[0]
    if isinstance(only, MergeBaseTask):
        merges = (True, False, False)
        through = _compared(shape, merges, only, config.batch_size, held.figures, held.validation)
        return evaluation(shape, through, len(merges), rounded=1)
    through, asked = _questions(shape, form, held.figures), 0.0
    for task in config.tasks:
        rows = _rows(task, held)
        if math.isinf(rows):
            return None
        if isinstance(task, HeldoutTask):
            through = through.plus(_held_out(shape, task, form, held.figures, rows))
            if task.sample is not None:
                drawn = task.model_copy(update={"choice": False})
                more = rows * task.sample.answers
                through = through.plus(_held_out(shape, drawn, form, held.figures, more))
            asked += rows * len(held.figures.choices) * task.choice
        elif isinstance(task, PreferenceTask | LabelledTask):
            answers = 2 if isinstance(task, PreferenceTask) else 1
            through = through.plus(_preferred(shape, form, held.figures, rows, answers))
            asked += answers * rows
        elif isinstance(task, PerplexityTask):
            through = through.plus(_documents(shape, form, held.figures, rows))
            asked += rows
        elif isinstance(task, LmEvalTask):
            passes, tokens = rows / config.batch_size, rows * longest_row
            through = through.plus(_read(shape, form.adapted, passes, tokens, compared=rows))
    references = [task for task in config.tasks if isinstance(task, FidelityTask)]
    if references:
        models = (form.adapted, *(task.adapter for task in references))
        compared = _compared(shape, models, references[0], config.batch_size, held.figures, held.test)
        through = through.plus(compared)
    rounded = int(config.nf4 is not None) + sum(task.nf4 is not None for task in references)
    return evaluation(shape, through, 1 + len(references), rounded + form.merged, asked)


def _rows(task: Task, held: Splits) -> float:
    """Items of a task; infinite where they are not known."""
    if isinstance(task, HeldoutTask):
        known = held.test if task.turns == "last" else math.inf
        return min(known, task.max_items or math.inf)
    if isinstance(task, PreferenceTask | PerplexityTask):
        return min(held.test, task.max_items or math.inf)
    if isinstance(task, LabelledTask):
        bad = held.test * held.figures.undesirable / held.figures.rows if held.figures.rows else 0.0
        return sum(min(rows, task.max_items or math.inf) for rows in (held.test, bad))
    if isinstance(task, LmEvalTask):
        return min(_known_documents(task), task.limit or math.inf)
    return 0.0


def _known_documents(task: LmEvalTask) -> float:
    """Documents of the task that comes with Tuneline; infinite of others, which lm-eval alone knows."""
    if task.path != SHIPPED:
        return math.inf
    files = task_folder(SHIPPED).glob("*.jsonl")
    return sum(len(file.read_text("utf-8").splitlines()) for file in files)


def _held_out(shape: ModelShape, task: HeldoutTask, form: Form, figures: RowFigures, rows: float) -> Through:
    """Each prompt, without what all begin with, and each token of its answer, which is a pass for all rows of
    a batch; with `choice` the prompt again, and what of each answer does not begin another one."""
    batches = math.ceil(rows / form.config.batch_size)
    prompt = max(1.0, figures.prompt - figures.shared)
    written = float(task.max_new_tokens)
    passes = written if form.untuned else min(written, figures.longest_answer)
    if not form.untuned:
        written = min(written, figures.answer)
    through = _read(
        shape, form.adapted, batches * passes, rows * (prompt + written), batches * passes, rows * written
    )
    if not task.choice:
        return through
    branches = sum(max(0.0, tokens - 1) for tokens in figures.choices)
    tokens, compared = rows * (prompt + branches), rows * (1 + branches)
    return through.plus(_read(shape, form.adapted, batches * (1 + BRANCHES), tokens, compared=compared))


def _preferred(shape: ModelShape, form: Form, figures: RowFigures, rows: float, count: int) -> Through:
    """Each prompt, without what all begin with, and its one answer, or both."""
    passes = math.ceil(rows / form.config.batch_size) * (1 + BRANCHES)
    answers = count * figures.answer
    tokens = rows * (max(1.0, figures.prompt - figures.shared) + answers)
    return _read(shape, form.adapted, passes, tokens, compared=rows * answers)


def _documents(shape: ModelShape, form: Form, figures: RowFigures, rows: float) -> Through:
    """Each piece from its first token on."""
    passes, tokens = math.ceil(rows / form.config.batch_size) * (1 + BRANCHES), rows * figures.length
    return _read(shape, form.adapted, passes, tokens, compared=tokens)


def _questions(shape: ModelShape, form: Form, figures: RowFigures) -> Through:
    """All in as few batches as they take; a prompt is taken to be as long as a row's."""
    count = len(form.config.questions)
    batches = math.ceil(count / form.config.batch_size)
    written = QUESTION_TOKENS if form.untuned else min(QUESTION_TOKENS, figures.longest_answer)
    tokens = count * (figures.prompt + written)
    return _read(shape, form.adapted, batches * written, tokens, batches * written, count * written)


def _compared(
    shape: ModelShape,
    models: Sequence[bool],
    task: FidelityTask | MergeBaseTask,
    batch_size: int,
    figures: RowFigures,
    rows: float,
) -> Through:
    """The same chats through each of the models (whether it has an adapter); log-probabilities of the first
    are kept, those of each other one computed and held against them, as much work again."""
    chats = min(rows, task.chats)
    last = min(float(task.tokens), max(1.0, figures.length - 1))
    passes = math.ceil(chats / min(batch_size, max(1.0, BRANCH_TOKENS // last))) * (1 + BRANCHES)
    through = Through(shape.layers)
    for place, adapted in enumerate(models):
        positions = chats * last * (2 if place else 1)
        through = through.plus(_read(shape, adapted, passes, chats * figures.length, compared=positions))
    return through


def _read(
    shape: ModelShape,
    adapted: bool,
    passes: float,
    tokens: float,
    answer_passes: float = 0.0,
    answered: float = 0.0,
    compared: float = 0.0,
) -> Through:
    head = {"answer_passes": answer_passes, "answered": answered, "compared": compared}
    if adapted:
        return Through(shape.layers, adapted_passes=passes, adapted_tokens=tokens, **head)
    return Through(shape.layers, read_passes=passes, read_tokens=tokens, **head)
