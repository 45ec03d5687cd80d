"""Direct preference optimization: of two answers the chosen one becomes likelier, the rejected one less.

Rafailov et al. 2023, arXiv:2305.18290, equation 7. With π the model and π₀ what its training began with, the
loss of a pair is −log σ(m), its margin m = β · (log π(chosen) / π₀(chosen) − log π(rejected) / π₀(rejected)).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from stages.backends.train.pair_trainer import PairTrainer
from stages.backends.train.pairs import Pairs
from stages.backends.train.reference import kept_exact, reference_of
from stages.config.train import TrainConfig


class DpoTrainer(PairTrainer):
    """Margins are 0 in the first step: it begins at its reference."""

    rate = ("train.dpo.learning_rate", "1e-5")

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        train_rows: Pairs,
        validation_rows: Pairs,
        config: TrainConfig,
        checkpoints: Path,
    ) -> None:
        with kept_exact(model):
            super().__init__(model, tokenizer, train_rows, validation_rows, config, checkpoints)
        self.reference = torch.empty(0, 2)

    def before_training(self) -> None:
        """Have log π₀ of all pairs, those for validation last."""
        self.reference = reference_of(self, (self.pairs, self.validation_rows), 2, "pairs")

    def _losses(
        self, model: Any, inputs: Mapping[str, torch.Tensor], first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = self._log_probabilities(model, inputs)
        gained = both - self.reference[first + inputs["place"].cpu()].to(both.device)
        margins = self.recipe.dpo.beta * (gained[:, 0] - gained[:, 1])
        return -functional.logsigmoid(margins), margins
