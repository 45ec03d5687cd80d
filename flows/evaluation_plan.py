"""What each rung of the ladder is measured on: the recipe's tasks, and how near it is to its parent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from stages.config.evaluate import EvaluateConfig, FidelityTask, MergeBaseTask
from stages.config.train import Nf4Config
from stages.contract import StageConfig

if TYPE_CHECKING:
    from registry import Artifact

PARENT, BASE, FOLD = "fidelity", "fidelity-base", "fidelity-fold"
"""Tasks: against the rung before, against the quantized base, against the same sum unmerged."""


class LadderConfig(StageConfig):
    """Each model is compared, token by token, with the one it was made from."""

    chats: int = Field(default=64, ge=2, description="first chats of the test split that are compared")
    tokens: int = Field(default=64, ge=1, description="last tokens of each chat that are compared")


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluation of each form of the model. Without a ladder, the recipe's tasks alone."""

    evaluate: EvaluateConfig
    ladder: LadderConfig | None
    nf4: Nf4Config

    @property
    def base(self) -> EvaluateConfig:
        """The quantized base: where the ladder begins."""
        return self.evaluate.model_copy(update={"nf4": self.nf4})

    @property
    def stored(self) -> EvaluateConfig:
        """A model as it is stored, on the recipe's tasks alone."""
        return self.evaluate.model_copy(update={"nf4": None})

    @property
    def tuned(self) -> EvaluateConfig:
        """Base and adapter as trained, against the quantized base: the tune's own effect."""
        return self._with(self.base, self._task(PARENT, reference="base", nf4=self.nf4))

    def merged(self, merged: Artifact) -> EvaluateConfig:
        """A merge, against base and adapter as trained, and against the very sum that was merged."""
        tasks = [self._task(PARENT, reference="base", adapter=True, nf4=self.nf4)]
        if merged.manifest.quant is not None and merged.manifest.quant.merge_base == "16bit":
            tasks.append(self._task(FOLD, reference="base", adapter=True))
        return self._with(self.stored, *tasks)

    @property
    def quantized(self) -> EvaluateConfig:
        """A quantized file, against its merged parent and against the quantized base."""
        base = self._task(BASE, reference="base", nf4=self.nf4)
        return self._with(self.stored, self._task(PARENT, reference="reference"), base)

    @property
    def apart(self) -> EvaluateConfig:
        """A GGUF adapter on a GGUF base: against base and adapter as trained, against the same sum in the
        base's own weights, and against the quantized base."""
        trained = self._task(PARENT, reference="base", adapter=True, nf4=self.nf4)
        exact = self._task(FOLD, reference="base", adapter=True)
        base = self._task(BASE, reference="base", nf4=self.nf4)
        return self._with(self.stored, trained, exact, base)

    @property
    def apart_16bit(self) -> EvaluateConfig:
        """The adapter as trained on the base's own weights: against the same on the NF4 ones, and against the
        quantized base."""
        trained = self._task(PARENT, reference="base", adapter=True, nf4=self.nf4)
        return self._with(self.stored, trained, self._task(BASE, reference="base", nf4=self.nf4))

    @property
    def merge_base(self) -> EvaluateConfig:
        """Two merges of one adapter, on the validation split."""
        size = self.ladder or LadderConfig()
        task = MergeBaseTask(nf4=self.nf4, chats=size.chats, tokens=size.tokens)
        return self.stored.model_copy(update={"tasks": (task,), "questions": ()})

    def _task(self, name: str, **what: object) -> FidelityTask:
        size = self.ladder or LadderConfig()
        return FidelityTask.model_validate({"name": name, "chats": size.chats, "tokens": size.tokens, **what})

    def _with(self, config: EvaluateConfig, *tasks: FidelityTask) -> EvaluateConfig:
        if self.ladder is None:
            return config
        return EvaluateConfig.model_validate({**dict(config), "tasks": (*config.tasks, *tasks)})
