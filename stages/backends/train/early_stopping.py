"""The adapter of the best validation loss, kept beside the checkpoints until the training ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from registry.store.files import sync_file
from stages.backends.train.lora import trainable

_PREFIX = "best-"


class BestAdapter:
    """Keeps the weights of the best validation loss in `folder`, and says when `patience` is at its end.

    What is best follows from the history of losses, which checkpoints have: a training that goes on from an
    earlier one finds the same.
    """

    def __init__(self, folder: Path, patience: int) -> None:
        self._folder, self._patience = folder, patience

    def look(self, model: Any, history: Iterable[Mapping[str, Any]]) -> bool:
        """After an evaluation, the last in `history`: keep the weights if it was the best; else whether as
        many came since as there is patience for."""
        steps, best = _steps(history), best_step(history)
        if best == steps[-1]:
            self._keep(model, best)
        return len(steps) - 1 - steps.index(best) >= self._patience

    def forget_others(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Delete what was the best before; from here on no training goes on from an earlier step."""
        if _steps(history):
            kept = self._file(best_step(history))
            for file in self._folder.glob(f"{_PREFIX}*"):
                if file != kept:
                    file.unlink()

    def restore(self, model: Any, history: Iterable[Mapping[str, Any]]) -> None:
        """Put the best weights into the model."""
        weights = safetensors.torch.load_file(self._file(best_step(history)))
        with torch.no_grad():
            for name, weight in trainable(model):
                weight.copy_(weights[name])

    def _keep(self, model: Any, step: int) -> None:
        weights = {name: weight.detach().cpu().contiguous() for name, weight in trainable(model)}
        part = self._folder / "kept.part"
        safetensors.torch.save_file(weights, part)
        sync_file(part)
        part.rename(self._file(step))

    def _file(self, step: int) -> Path:
        return self._folder / f"{_PREFIX}{step}.safetensors"


def best_step(history: Iterable[Mapping[str, Any]]) -> int:
    """The step of the lowest validation loss, the first of equal ones. There has to be one."""
    step, _ = min(_losses(history), key=lambda pair: (math.isnan(pair[1]), pair[1]))
    return step


def _steps(history: Iterable[Mapping[str, Any]]) -> list[int]:
    return [step for step, _ in _losses(history)]


def _losses(history: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    return [(row["step"], row["validation_loss"]) for row in history if "validation_loss" in row]
