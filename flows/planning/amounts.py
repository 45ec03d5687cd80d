"""How much a recipe asks for, and how much of that training is, as far as it can be known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flows.planning.rows import RowFigures, assumed
from flows.recipe import AdapterConfig, LadderConfig
from stages.config.base import BaseConfig
from stages.config.evaluate import EvaluateConfig
from stages.config.merge import MergeConfig
from stages.config.prepare import PrepareConfig
from stages.config.train import TrainConfig
from stages.model_shape import ModelShape
from stages.quantization.method import QuantizationConfig
from stages.work import Work, training


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


@dataclass(frozen=True)
class TrainingAmounts:
    """`passes`: batches forward and back; `learned`: tokens of answers among the `tokens`; `checks`:
    tokens that all validations read together."""

    tokens: float
    passes: float
    learned: float
    checks: float = 0.0

    def with_tokens(self, tokens: float) -> TrainingAmounts:
        """In proportion, of so many tokens."""
        ratio = tokens / self.tokens
        return TrainingAmounts(tokens, *(value * ratio for value in (self.passes, self.learned, self.checks)))

    def work(self, shape: ModelShape, checkpointing: bool) -> Work:
        """Of training a model of `shape` on them."""
        more = {"passes": self.passes, "learned": self.learned, "checks": self.checks}
        return training(shape, self.tokens, checkpointing, **more)


def training_amounts(recipe: Plan, figures: RowFigures | None) -> TrainingAmounts | None:
    """Of the rows that the recipe trains on; without `figures` of the longest that it allows, for
    `max_steps`, or None where that is not given."""
    config, split = recipe.train.as_run, recipe.prepare.split
    chats = config.sequences // config.batch_size  # of a row: a pair is two
    if figures is None and config.max_steps is None:
        return None
    per_step = config.batch_size * config.gradient_accumulation
    if figures is None:
        rows, validated = float("inf"), 0.0
        figures = assumed(rows, min(config.max_length, recipe.prepare.max_length))
    else:
        read = figures.rows + figures.undesirable * (config.method == "kto")
        rows, validated = read * (1 - split.validation - split.test), read * split.validation
    seen = rows * config.epochs
    if config.max_steps is not None:
        seen = min(seen, float(config.max_steps * per_step))
    length = chats * figures.length
    tokens = seen * length
    passes = tokens / config.max_length if config.packing else seen
    checked = config.evaluations * validated
    if config.method in ("dpo", "kto"):  # the reference reads every row once
        checked += min(rows, seen) + validated
    if config.method == "kto":  # answers after other prompts: by the reference, in each step and validation
        checked += 2 * seen + (1 + config.evaluations) * validated
    return TrainingAmounts(
        tokens, passes / config.batch_size, chats * seen * figures.answer, checked * length
    )


def longest(recipe: Plan) -> int:
    """Tokens of the longest row that an evaluation sees."""
    return min(recipe.prepare.max_length, recipe.evaluate.context_length)
