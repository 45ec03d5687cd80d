"""Odds ratio preference optimization: the chosen answer is learned, and made likelier than the rejected one.

Hong, Lee and Thorne 2024, arXiv:2403.07691, equations 4, 6 and 7. With P the geometric mean of the model's
probabilities of an answer's tokens, the loss of a pair is −log P(chosen) − λ · log σ(m), its margin
m = log (odds(P(chosen)) / odds(P(rejected))), odds(P) = P / (1 − P). No other model is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from stages.backends.train.pair_trainer import PairTrainer
from stages.backends.train.rows import IGNORED

_SURE = -1e-6
"""log P is held below this, or the odds of an answer without any doubt would be infinite."""


class OrpoTrainer(PairTrainer):
    """The loss of a pair is that of its chosen answer per token, and λ times that of the odds."""

    def _losses(
        self, model: Any, inputs: Mapping[str, torch.Tensor], first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = (inputs["labels"][:, 1:] != IGNORED).sum(dim=1).view(2, -1).T
        return odds_ratio_losses(self._log_probabilities(model, inputs) / tokens, self.recipe.orpo.weight)


def odds_ratio_losses(means: torch.Tensor, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and margin of each pair: (pairs,) each, in the dtype of `means`.

    `means`: mean log-probability per token of chosen and rejected in nats, (pairs, 2); `weight`: λ.
    """
    likely = means.clamp(max=_SURE)
    odds = likely - torch.log(-torch.expm1(likely))
    margins = odds[:, 0] - odds[:, 1]
    return -means[:, 0] - weight * functional.logsigmoid(margins), margins
