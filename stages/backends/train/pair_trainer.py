"""What trainers on pairs of answers have in common: batches of both, and which one the model prefers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stages.backends.train.answer_trainer import AnswerTrainer
from stages.backends.train.pairs import Pairs
from stages.backends.train.trainer import Collator
from stages.config.train import TrainConfig


class PairTrainer(AnswerTrainer, ABC):
    """Trains on `Pairs`. A batch holds all chosen chats, then the rejected ones, and the pairs' places.

    A method of training is a subclass that says in `_losses` what a pair costs.
    """

    step_figures = ("preferred", "margin")
    """Share of the step's pairs with a margin above 0, and the mean margin, as its loss has it."""
    validation_figures = ("validation_loss", "validation_preferred")

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        train_rows: Pairs,
        validation_rows: Pairs,
        config: TrainConfig,
        checkpoints: Path,
    ) -> None:
        super().__init__(model, tokenizer, train_rows, validation_rows, config, checkpoints)
        self.pairs = train_rows

    @staticmethod
    def _collator(of_chats: Collator) -> Collator:
        return _BothAnswers(of_chats)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Mean loss of the pairs in `inputs`: `input_ids`, `labels` and `attention_mask` (2 · pairs, length),
        `place` (pairs,)."""
        losses, margins = self._losses(model, inputs, 0)
        self._metrics["train"]["preferred"].append((margins > 0).float().mean().item())
        self._metrics["train"]["margin"].append(margins.mean().item())
        return losses.mean()

    @abstractmethod
    def _losses(
        self, model: Any, inputs: Mapping[str, torch.Tensor], first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and margin of each pair: float32 (pairs,). `first`: where the pairs of this split begin among
        those of all splits."""

    def _log_probabilities(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum over each answer's tokens: float32 (pairs, 2), the chosen ones first."""
        return super()._log_probabilities(model, inputs).view(2, -1).T

    def _validate(self) -> dict[str, float]:
        """Mean loss of the pairs, and the share of them with a margin above 0."""
        found = [
            self._losses(self.model, self._together(self.validation_rows, places), len(self.pairs))
            for places in self._batches(self.validation_rows)
        ]
        losses, margins = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {
            "validation_loss": losses.mean().item(),
            "validation_preferred": (margins > 0).float().mean().item(),
        }


class _BothAnswers:
    """Collates pairs: by TRL's collator of chats, the chosen ones before the rejected ones."""

    def __init__(self, of_chats: Collator) -> None:
        self._of_chats = of_chats

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        chats = [
            {name: pair[name][side] for name in ("input_ids", "labels")} for side in (0, 1) for pair in pairs
        ]
        batch: dict[str, torch.Tensor] = self._of_chats(chats)
        return {**batch, "place": torch.tensor([pair["place"] for pair in pairs])}
