"""Whether a run that was made here took what this one will take: the same inputs, but for what costs nothing.

A model is the same size where it has as many parameters; data is the same where its digest is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flows.planning.amounts import Plan
from flows.planning.earlier import EarlierRun
from flows.planning.sources import data_bytes
from flows.run.fingerprint import pin
from registry.artifacts import Manifest
from stages.config.evaluate import EvaluateConfig, FidelityTask
from stages.config.merge import MergeConfig
from stages.config.prepare import PrepareConfig
from stages.config.train import TrainConfig
from stages.model_shape import ModelShape
from stages.quantization import method_of
from stages.quantization.method import QuantizationConfig

OF_STEPS = ("epochs", "max_steps", "learning_rate", "schedule", "warmup_ratio", "weight_decay")
UNHELD = ("max_grad_norm", "checkpoint_every", "seed", "frozen_weights", *OF_STEPS)
"""Keys of training that change no byte of what it holds; how the weights are held is recorded beside."""
OF_CALIBRATION = ("seed", "damp_percent")
MOST_READ = 50_000_000
"""Bytes of data that are read for their digest; more would take long, and nothing is said of it."""


@dataclass(frozen=True)
class Alike:
    """What `recipe` asks for on a base of this shape, beside what runs here were asked for.

    Its methods raise as pydantic does for a run of another version, which recorded something else.
    """

    recipe: Plan
    shape: ModelShape

    @cached_property
    def _source(self) -> str | None:
        """The data as a dataset's manifest names it; None where that takes long or a network, or it grows."""
        source = self.recipe.prepare.source
        size = data_bytes(source) if source.startswith(("path:", "package:")) else None
        return pin(source, "dataset") if size is not None and size <= MOST_READ else None

    def rows(self, datasets: Sequence[Manifest]) -> bool:
        """Whether the one dataset is what the recipe will prepare."""
        if len(datasets) != 1 or self._source is None or self.recipe.prepare.mix:
            return False
        config, made = self.recipe.prepare, datasets[0].config
        return made["source"] == self._source and config == PrepareConfig.model_validate(
            {**made, "source": config.source}
        )

    def trained(self, run: EarlierRun, frozen: str) -> bool:
        """Whether it held as much at its peak, its frozen weights as these."""
        made = TrainConfig.model_validate(run.manifest.config)
        return (
            run.parameters == self.shape.parameters
            and run.manifest.quant is not None
            and run.manifest.quant.effective["frozen_weights"] == frozen
            and _without(made, UNHELD) == _without(self.recipe.train, UNHELD)
            and self.rows(run.parents("trained_on"))
        )

    def trained_as_long(self, run: EarlierRun, frozen: str) -> bool:
        """Whether it also made as many steps."""
        made, asked = TrainConfig.model_validate(run.manifest.config), self.recipe.train
        return (made.epochs, made.max_steps) == (asked.epochs, asked.max_steps) and self.trained(run, frozen)

    def evaluated(self, run: EarlierRun) -> bool:
        """Whether it is of a merged model, which takes most, on the recipe's tasks and ladder."""
        made, asked = EvaluateConfig.model_validate(run.manifest.config), self.recipe.evaluate
        ladder = self.recipe.ladder
        tasks = tuple(task for task in made.tasks if not isinstance(task, FidelityTask))
        compared = {(task.chats, task.tokens) for task in made.tasks if isinstance(task, FidelityTask)}
        return (
            run.parameters == self.shape.parameters
            and any(model.kind == "merged" for model in run.parents("evaluation_of"))
            and (tasks, compared) == (asked.tasks, {(ladder.chats, ladder.tokens)} if ladder else set())
            and (made.batch_size, made.context_length) == (asked.batch_size, asked.context_length)
            and made.compute_dtype == asked.compute_dtype
            and self.rows(run.parents("evaluated_on"))
        )

    def merged(self, run: EarlierRun) -> bool:
        """Whether it is one of the recipe's merges, of a model as large."""
        made = MergeConfig.model_validate(run.manifest.config)
        return run.parameters == self.shape.parameters and made in self.recipe.merge.candidates

    def quantized(self, run: EarlierRun, config: QuantizationConfig) -> bool:
        """Whether it made such a file of a model as large, calibrated on the same rows if at all."""
        if run.manifest.config["method"] != config.method or run.parameters != self.shape.parameters:
            return False
        made = type(config).model_validate(run.manifest.config)
        if _without(made, OF_CALIBRATION) != _without(config, OF_CALIBRATION):
            return False
        return not method_of(config).calibrates or self.rows(run.parents("calibrated_on"))


def _without(config: TrainConfig | QuantizationConfig, keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in config.model_dump().items() if key not in keys}
