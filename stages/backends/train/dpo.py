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
from datasets import Dataset
from torch import nn
from torch.nn import functional

from registry.store.files import sync_file
from stages.backends.nf4 import require_not_repacked
from stages.backends.train.lora import trainable
from stages.backends.train.loss import token_losses, without
from stages.backends.train.pairs import Pairs
from stages.backends.train.rows import IGNORED
from stages.backends.train.trainer import Trainer
from stages.config.train import TrainConfig
from stages.contract import progress

REFERENCE = "reference.npy"
"""Beside the checkpoints: log π₀ of both answers of each pair, float32 (pairs, 2); validation comes last."""


class DpoTrainer(Trainer):
    """Trains on `Pairs`. A batch holds all chosen chats, then the rejected ones, and the pairs' places."""

    step_figures = ("preferred", "margin")
    """Share of the step's pairs with a margin above 0, and the mean margin; 0 and 0 in the first step."""
    validation_figures = ("validation_loss", "validation_preferred")
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
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs, not over tokens
        self.data_collator: Any = _BothAnswers(self.data_collator)
        self.pairs = train_rows
        self.reference = torch.empty(0, 2)

    @staticmethod
    def _table(rows: Any) -> Dataset:
        sides = (rows.chosen, rows.rejected)
        columns = {
            "input_ids": [list(both) for both in zip(*(side.input_ids for side in sides), strict=True)],
            "labels": [list(both) for both in zip(*(side.labels for side in sides), strict=True)],
            "place": list(range(len(rows))),
        }
        return Dataset.from_dict(columns)

    @staticmethod
    def _sizes(data: Dataset) -> tuple[list[int], list[int]]:
        both = [[len(ids) for ids in pair] for pair in data["input_ids"]]
        return [max(lengths) for lengths in both], [sum(lengths) for lengths in both]

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "place"]

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

    def _together(self, data: Dataset, places: Sequence[int]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = self._prepare_inputs(self.data_collator([data[k] for k in places]))
        return batch

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Mean loss of the pairs in `inputs`: `input_ids`, `labels` and `attention_mask` (2 · pairs, length),
        `place` (pairs,)."""
        margins = self._margins(model, inputs, 0)
        self._metrics["train"]["preferred"].append((margins > 0).float().mean().item())
        self._metrics["train"]["margin"].append(margins.mean().item())
        return -functional.logsigmoid(margins).mean()

    def _margins(self, model: Any, inputs: Mapping[str, torch.Tensor], first: int) -> torch.Tensor:
        """m of each pair: float32 (pairs,). `first`: where the pairs of this split begin in the reference."""
        both = self._log_probabilities(model, inputs)
        gained = both - self.reference[first + inputs["place"].cpu()].to(both.device)
        return self.recipe.dpo.beta * (gained[:, 0] - gained[:, 1])

    def _log_probabilities(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum over each answer's tokens: float32 (pairs, 2), the chosen ones first."""
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
        sums = torch.zeros(len(labels), device=losses.device).index_add(0, answer, -losses)
        return sums.view(2, -1).T

    def _validate(self) -> dict[str, float]:
        """Mean loss of the pairs, and the share of them with a margin above 0."""
        data = self._table(self.validation_rows)
        found: list[torch.Tensor] = []
        for places in self._batches(self.validation_rows):
            found.append(self._margins(self.model, self._together(data, places), len(self.pairs)))
        margins = torch.cat(found)
        return {
            "validation_loss": -functional.logsigmoid(margins).mean().item(),
            "validation_preferred": (margins > 0).float().mean().item(),
        }


class _BothAnswers:
    """Collates pairs: by TRL's collator of chats, the chosen ones before the rejected ones."""

    def __init__(self, of_chats: Any) -> None:
        self._of_chats = of_chats

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        chats = [
            {name: pair[name][side] for name in ("input_ids", "labels")} for side in (0, 1) for pair in pairs
        ]
        batch: dict[str, torch.Tensor] = self._of_chats(chats)
        return {**batch, "place": torch.tensor([pair["place"] for pair in pairs])}


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
