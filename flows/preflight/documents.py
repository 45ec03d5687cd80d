"""Recipes that learn documents: what cannot work, and what practice says of the rest."""

from __future__ import annotations

from collections.abc import Iterator

from flows.recipe import Recipe
from stages.config.evaluate import HeldoutTask, LabelledTask, PerplexityTask, PreferenceTask

_HIGH_RATE = 1e-4


def problems(recipe: Recipe) -> Iterator[str]:
    """What reads documents where the data have none, and what asks them for answers."""
    formats = {source.format for source in recipe.prepare.sources}
    for number, task in enumerate(recipe.evaluate.tasks):
        where = f"evaluate.tasks.{number}"
        if isinstance(task, PerplexityTask) and "text" not in formats:
            yield (
                f"{where}: a perplexity task reads held-out documents; set prepare.format: text, for data "
                "with documents, or take the task out"
            )
        elif isinstance(task, HeldoutTask | PreferenceTask | LabelledTask) and formats == {"text"}:
            yield (
                f"{where}: a {task.kind} task asks for answers, and documents (prepare.format: text) have "
                "none; set kind: perplexity"
            )
    measured = {task.name for task in recipe.evaluate.tasks if isinstance(task, PerplexityTask)}
    for number, rule in enumerate(recipe.gate.tasks if recipe.gate is not None else ()):
        if rule.task in measured and rule.metric == "perplexity":
            yield (
                f"gate.tasks.{number}.metric: of perplexity less is better, and a rule asks for more; set "
                "log_likelihood, which says the same in nats per token"
            )


def remarks(recipe: Recipe) -> Iterator[str]:
    """What practice says of training on documents, a line for each; it stops nothing."""
    formats = [source.format for source in recipe.prepare.sources]
    if "text" not in formats:
        return
    train = recipe.train
    if set(formats) == {"text"}:
        yield (
            "Documents alone: a chat model forgets how to answer while it learns them. Mix chats in "
            "(prepare.mix), and let a rule hold what must not be lost."
        )
    if train.learning_rate > _HIGH_RATE:
        yield (
            f"train.learning_rate {train.learning_rate:g} is usual for answers; documents are usually "
            f"learned at {_HIGH_RATE:g} or less."
        )
    if not train.packing and train.method == "sft":
        yield "train.packing: false: short documents are padded; true fills sequences of train.max_length."
    if not train.lora.modules_to_save and train.lora.target_modules == "all-linear":
        yield (
            "Embeddings and head stay as they are: words of another language or field are learned in "
            "the layers only. train.lora.modules_to_save: [embed_tokens, lm_head] trains them, at much more "
            "memory, on a base whose embedding and head do not share their weights."
        )
