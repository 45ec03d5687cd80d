"""Direct preference optimization: of two answers the chosen one becomes likelier, the rejected one less.

Rafailov et al. 2023, arXiv:2305.18290, equation 7. With π the model and π₀ what its training began with, the
loss of a pair is −log σ(m), its margin m = β · (log π(chosen) / π₀(chosen) − log π(rejected) / π₀(rejected)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from registry.store.files import sync_file
from stages.backends.nf4 import require_not_repacked
from stages.backends.train.lora import trainable
from stages.backends.train.pair_trainer import PairTrainer
from stages.backends.train.pairs import Pairs
from stages.config.train import TrainConfig
from stages.contract import progress

REFERENCE = "reference.npy"
"""Beside the checkpoints: log π₀ of both answers of each pair, float32 (pairs, 2); validation comes last."""


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
        without_dropout(model)
        exact = {name: weight.detach().float().clone() for name, weight in trainable(model)}
        super().__init__(model, tokenizer, train_rows, validation_rows, config, checkpoints)
        for name, weight in trainable(model):  # which TRL rounded to bfloat16: another model than the start
            weight.data = exact[name]
        self.reference = torch.empty(0, 2)

    def before_training(self) -> None:
        """Have log π₀ of all pairs: from the file that an earlier attempt left, else computed, once."""
        file, splits = Path(self.args.output_dir) / REFERENCE, (self.pairs, self.validation_rows)
        known = _kept(file, sum(map(len, splits)))
        if known is None:
            known = self._reference_of(splits)
            _keep(file, known)
        self.reference = torch.from_numpy(known)

    def _reference_of(self, splits: Sequence[Pairs]) -> np.ndarray:
        """Of the model as it is now: float32 (pairs of all splits, 2)."""
        bf16 = torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16)
        found = [np.empty((len(pairs), 2), dtype=np.float32) for pairs in splits]
        done = 0
        self.model.eval()
        with torch.no_grad(), bf16:  # which a training enters by itself, later
            for pairs, values in zip(splits, found, strict=True):
                data = self._table(pairs)
                for places in self._batches(pairs):
                    both = self._log_probabilities(self.model, self._together(data, places))
                    values[places] = both.cpu().numpy()
                    done += len(places)
                    progress(done, sum(map(len, splits)), "pairs read by the reference")
        self.model.train()
        require_not_repacked(self.model)
        return np.concatenate(found)

    def _losses(
        self, model: Any, inputs: Mapping[str, torch.Tensor], first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = self._log_probabilities(model, inputs)
        gained = both - self.reference[first + inputs["place"].cpu()].to(both.device)
        margins = self.recipe.dpo.beta * (gained[:, 0] - gained[:, 1])
        return -functional.logsigmoid(margins), margins


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off: π₀ was read without it, so with it the model would differ from itself."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _kept(file: Path, pairs: int) -> np.ndarray | None:
    """What the file holds, if it is whole and of as many pairs."""
    try:
        known: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return known if known.shape == (pairs, 2) and known.dtype == np.float32 else None


def _keep(file: Path, known: np.ndarray) -> None:
    """Write the file at once: an attempt that goes on from a checkpoint has to find the same numbers."""
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as stream:
        np.save(stream, known)
    sync_file(part)
    part.rename(file)
