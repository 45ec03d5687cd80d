"""Kahneman-Tversky optimization: answers called good become likelier, those called bad less.

Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8. With π the model and π₀ what its training began
with, r = log π(y|x) / π₀(y|x) of an answer y to x. A batch's z is the mean of r over its answers after each
other's prompts, at least 0: how far the model has moved anyway, through which no gradient goes. The loss of a
good answer is λ · (1 − σ(β · (r − z))), of a bad one λ · (1 − σ(β · (z − r))), each with its own λ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stages.backends.train.answer_trainer import AnswerTrainer
from stages.backends.train.labelled import AfterOtherPrompts, Labelled
from stages.backends.train.reference import kept_exact, reference_of
from stages.backends.train.trainer import Collator
from stages.config.train import TrainConfig


class KtoTrainer(AnswerTrainer):
    """Trains on `Labelled`. In the first step r and z are 0: it begins at its reference."""

    rate = ("train.kto.learning_rate", "1e-5")
    step_figures = ("as_labelled", "kl")
    """Share of the step's answers with r above z where good, below where bad; and the mean of z."""
    validation_figures = ("validation_loss", "validation_as_labelled")

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        train_rows: Labelled,
        validation_rows: Labelled,
        config: TrainConfig,
        checkpoints: Path,
    ) -> None:
        with kept_exact(model):
            super().__init__(model, tokenizer, train_rows, validation_rows, config, checkpoints)
        order, size = list(self.train_dataset["place"]), config.batch_size
        batches = (order[start : start + size] for start in range(0, len(order), size))
        pairs = dict.fromkeys(pair for places in batches for pair in _others(places))
        self.mixed_place = {pair: place for place, pair in enumerate(pairs)}
        in_turn = [place for places in self._batches(validation_rows) for place in places]
        self.splits = (
            train_rows,
            validation_rows,
            AfterOtherPrompts(train_rows, list(pairs)),
            AfterOtherPrompts(validation_rows, _others(in_turn)),
        )
        self.reference: Sequence[torch.Tensor] = ()

    def before_training(self) -> None:
        """Have log π₀ of all answers, after their own prompts and after others."""
        known = reference_of(self, self.splits, 1, "answers")
        self.reference = known[:, 0].split([len(rows) for rows in self.splits])

    @staticmethod
    def _collator(of_chats: Collator) -> Collator:
        return _WithLabel(of_chats)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Mean loss of the answers in `inputs`: `input_ids`, `labels` and `attention_mask` (rows, length),
        `desirable` and `place` (rows,)."""
        mixed = [self.mixed_place[pair] for pair in _others(inputs["place"].tolist())]
        with torch.no_grad():
            kl = self._gained(model, self._together(self.splits[2], mixed), 2).mean().clamp(min=0)
        losses, margins = self._losses(self._gained(model, inputs, 0), kl, inputs["desirable"])
        self._metrics["train"]["as_labelled"].append((margins > 0).float().mean().item())
        self._metrics["train"]["kl"].append(kl.item())
        return losses.mean()

    def _gained(self, model: Any, inputs: Mapping[str, torch.Tensor], split: int) -> torch.Tensor:
        """r of each answer of a batch of a split: float32 (rows,)."""
        now = self._log_probabilities(model, inputs)
        return now - self.reference[split][inputs["place"].cpu()].to(now.device)

    def _losses(
        self, gained: torch.Tensor, kl: torch.Tensor, desirable: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and margin of each answer: (rows,) each. `gained`: r; `desirable`: bool; both (rows,)."""
        config = self.recipe.kto
        margins = torch.where(desirable, gained - kl, kl - gained)
        weights = torch.where(desirable, config.desirable_weight, config.undesirable_weight)
        return weights * torch.sigmoid(-config.beta * margins), margins

    def _validate(self) -> dict[str, float]:
        """Mean loss of all answers, with one z for all, and the share of them that went as labelled."""
        found = []
        for rows, split in ((self.validation_rows, 1), (self.splits[3], 3)):
            batches = (self._together(rows, places) for places in self._batches(rows))
            parts = [(self._gained(self.model, batch, split), batch["desirable"]) for batch in batches]
            found.append([torch.cat(column) for column in zip(*parts, strict=True)])
        (gained, desirable), (mixed, _) = found
        losses, margins = self._losses(gained, mixed.mean().clamp(min=0), desirable)
        return {
            "validation_loss": losses.mean().item(),
            "validation_as_labelled": (margins > 0).float().mean().item(),
        }


def _others(places: Sequence[int]) -> list[tuple[int, int]]:
    """Each place, and the one before it, whose answer comes after its prompt."""
    return list(zip(places, [*places[-1:], *places[:-1]], strict=True))


class _WithLabel:
    """Collates by TRL's collator of chats, and keeps whether each is good and where it stands."""

    def __init__(self, of_chats: Collator) -> None:
        self._of_chats = of_chats

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        chats = [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
        batch: dict[str, torch.Tensor] = self._of_chats(chats)
        beside = {name: torch.tensor([row[name] for row in rows]) for name in ("desirable", "place")}
        return {**batch, **beside}
