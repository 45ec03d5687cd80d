"""What trainers on whole answers have in common: how likely the model finds each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from stages.backends.train.loss import token_losses, without
from stages.backends.train.rows import IGNORED
from stages.backends.train.trainer import Trainer


class AnswerTrainer(Trainer):
    """Its loss is a mean over answers, not over tokens."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.model_accepts_loss_kwargs = False

    def _log_probabilities(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum over each answer's tokens: float32 (rows,).

        `inputs`: `input_ids`, `labels` and `attention_mask`, (rows, length) each.
        """
        labels = inputs["labels"][:, 1:]
        kept = (labels != IGNORED).any(dim=0).nonzero().flatten()
        read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        wanted = labels[:, kept]
        taught = wanted != IGNORED
        if self._head is not None:
            with without(self._head):
                hidden = model(**read, use_cache=False, logits_to_keep=kept).logits
            losses = token_losses(hidden[taught], wanted[taught], self._head, self.args.bf16)
        else:
            some = {"logits_to_keep": kept} if self._keeps_logits else {}
            logits = model(**read, use_cache=False, **some).logits
            logits = logits if self._keeps_logits else logits[:, kept]
            losses = functional.cross_entropy(logits[taught].float(), wanted[taught], reduction="none")
        answer = taught.nonzero()[:, 0]
        return torch.zeros(len(labels), device=losses.device).index_add(0, answer, -losses)
