"""How each form of the model is measured: on the recipe's tasks, and on how near it is to its origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flows.recipe import AdapterConfig, LadderConfig, Recipe
from flows.run.stage_row import Form
from registry import Artifact, Registry
from stages.config.evaluate import EvaluateConfig, FidelityTask, HeldoutTask, MergeBaseTask
from stages.config.judge_metric import ARTIFACT, FILES, JudgeMetric
from stages.config.metrics import MetricConfig
from stages.quantization import QuantizeConfig

AGAINST_PARENT, AGAINST_BASE, AGAINST_UNMERGED = "fidelity", "fidelity-base", "fidelity-fold"
"""Tasks: against the form before, against the quantized base, against the same sum unmerged."""
AGAINST_START = "fidelity-start"
"""Task: of an adapter trained on preferences, against the one that this began with."""


@dataclass(frozen=True)
class Measurement:
    """How one form is measured. `step`: what the run calls that; `label`: what tables call the form."""

    form: Form
    step: str
    label: str
    config: EvaluateConfig


@dataclass(frozen=True)
class EvaluationPlan:
    """The measurement of each form of the model. Without a ladder, on the recipe's tasks alone."""

    recipe: Recipe

    @property
    def untuned(self) -> Measurement:
        """The quantized base: where the ladder begins."""
        return Measurement("base", "evaluate base NF4", "base NF4", self._on_nf4)

    @property
    def started(self) -> Measurement:
        """The adapter that training on preferences began with, measured as any trained one."""
        config = self._with(self._on_nf4, self._base(AGAINST_PARENT))
        return Measurement("started", "evaluate before preferences", "tuned NF4 + first adapter", config)

    @property
    def tuned(self) -> Measurement:
        """Base and adapter as trained, against the quantized base: the tune's own effect."""
        tasks = [self._base(AGAINST_PARENT)]
        if self.recipe.train.goes_on:
            tasks.append(self._as_trained.model_copy(update={"name": AGAINST_START}))
        config = self._with(self._on_nf4, *tasks)
        return Measurement("tuned", "evaluate tuned NF4", "tuned NF4 + adapter", config)

    def against_start(self, start: Artifact | None) -> dict[str, Artifact]:
        """What `tuned` is compared with beside the base, by role."""
        return {"reference_adapter": start} if start is not None and self.recipe.ladder is not None else {}

    def merged(self, merged: Artifact) -> Measurement:
        """A merge, against base and adapter as trained, and against the very sum that was merged."""
        quant = merged.manifest.quant
        return self.merged_into(quant.merge_base if quant is not None else None)

    def merged_into(self, weights: str | None) -> Measurement:
        """The same of a merge into weights of that sort, `16bit` or `nf4`."""
        tasks = [self._as_trained]
        if weights == "16bit":
            tasks.append(self._sum)
        label = f"merged {self.recipe.merge.dtype}"
        return Measurement("merged", "evaluate merged", label, self._with(self.stored, *tasks))

    def quantized(self, method: QuantizeConfig) -> Measurement:
        """A quantized file, against its merged parent and against the quantized base."""
        parent = self._task(AGAINST_PARENT, reference="reference")
        config = self._with(self.stored, parent, self._base(AGAINST_BASE))
        return Measurement("quantized", f"evaluate {method.label}", method.label, config)

    def unmerged(self, adapter: AdapterConfig) -> Measurement:
        """The adapter over the base that is served, against base and adapter as trained and against the
        quantized base; a GGUF adapter also against the same sum in the base's own weights."""
        exact = () if adapter.on_16bit else (self._sum,)
        config = self._with(self.stored, self._as_trained, *exact, self._base(AGAINST_BASE))
        return Measurement("apart", f"evaluate {adapter.label}", adapter.label, config)

    @property
    def stored(self) -> EvaluateConfig:
        """A model as it is stored, on the recipe's tasks alone."""
        return self.recipe.evaluate.model_copy(update={"nf4": None})

    @property
    def merge_choice(self) -> EvaluateConfig:
        """Two merges of one adapter, on the validation split."""
        size = self.recipe.ladder or LadderConfig()
        task = MergeBaseTask(nf4=self.recipe.train.nf4, chats=size.chats, tokens=size.tokens)
        return self.stored.model_copy(update={"tasks": (task,), "questions": ()})

    @property
    def _on_nf4(self) -> EvaluateConfig:
        return self.recipe.evaluate.model_copy(update={"nf4": self.recipe.train.nf4})

    @property
    def _as_trained(self) -> FidelityTask:
        nf4 = self.recipe.train.nf4
        return self._task(AGAINST_PARENT, reference="base", adapter=True, nf4=nf4)

    @property
    def _sum(self) -> FidelityTask:
        return self._task(AGAINST_UNMERGED, reference="base", adapter=True)

    def _base(self, name: str) -> FidelityTask:
        return self._task(name, reference="base", nf4=self.recipe.train.nf4)

    def _task(self, name: str, **settings: Any) -> FidelityTask:
        size = self.recipe.ladder or LadderConfig()
        return FidelityTask(name=name, chats=size.chats, tokens=size.tokens, **settings)

    def _with(self, config: EvaluateConfig, *tasks: FidelityTask) -> EvaluateConfig:
        if self.recipe.ladder is None:
            return config
        return EvaluateConfig.model_validate({**dict(config), "tasks": (*config.tasks, *tasks)})


def with_artifacts(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe with the registry's own files where its judges name artifacts: `artifact:REF` or
    `artifact:REF/FILE`. Raises NotFound or Corrupt where there are none."""
    tasks = tuple(
        task.model_copy(update={"metrics": tuple(_looked_up(metric, registry) for metric in task.metrics)})
        if isinstance(task, HeldoutTask)
        else task
        for task in recipe.evaluate.tasks
    )
    if tasks == recipe.evaluate.tasks:
        return recipe
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"tasks": tasks})})


def _looked_up(metric: MetricConfig, registry: Registry) -> MetricConfig:
    if not isinstance(metric, JudgeMetric):
        return metric
    found = {}
    for key in FILES:
        name = getattr(metric, key)
        if name is not None and name.startswith(ARTIFACT):
            ref, _, file = name.removeprefix(ARTIFACT).partition("/")
            found[key] = str(registry.view(registry.get(ref).id) / file)
    return metric.model_copy(update=found)
