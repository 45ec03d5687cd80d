"""What the model that a training began with says of each answer: read once, kept beside the checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from registry.store.files import sync_file
from stages.backends.nf4 import require_not_repacked
from stages.backends.train.answer_trainer import AnswerTrainer
from stages.backends.train.lora import trainable
from stages.contract import progress

REFERENCE = "reference.npy"
"""Beside the checkpoints: log π₀ of each answer, float32; the splits one after the other."""


@contextmanager
def kept_exact(model: nn.Module) -> Iterator[None]:
    """Trainable weights are afterwards what they were: TRL rounds them to bfloat16, another model."""
    without_dropout(model)
    exact = {name: weight.detach().float().clone() for name, weight in trainable(model)}
    yield
    for name, weight in trainable(model):
        weight.data = exact[name]


def reference_of(trainer: AnswerTrainer, splits: Sequence[Any], answers: int, what: str) -> torch.Tensor:
    """log π₀ of the answers in each row of each split, one after the other: float32 (rows, `answers`).

    From the file that an earlier attempt left, else of the model as it is now. `what`: what a row is called.
    """
    file, shape = Path(trainer.args.output_dir) / REFERENCE, (sum(map(len, splits)), answers)
    known = _kept(file, shape)
    if known is None:
        known = _read(trainer, splits, shape, what)
        _keep(file, known)
    return torch.from_numpy(known)


def _read(trainer: AnswerTrainer, splits: Sequence[Any], shape: tuple[int, int], what: str) -> np.ndarray:
    bf16 = torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=trainer.args.bf16)
    found = [np.empty((len(rows), shape[1]), dtype=np.float32) for rows in splits]
    done = 0
    trainer.model.eval()
    with torch.no_grad(), bf16:  # which a training enters by itself, later
        for rows, values in zip(splits, found, strict=True):
            for places in trainer._batches(rows):
                each = trainer._log_probabilities(trainer.model, trainer._together(rows, places))
                values[places] = each.view(len(places), -1).cpu().numpy()
                done += len(places)
                progress(done, shape[0], f"{what} read by the reference")
    trainer.model.train()
    require_not_repacked(trainer.model)
    return np.concatenate(found)


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off: π₀ was read without it, so with it the model would differ from itself."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _kept(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """What the file holds, if it is whole and of that shape."""
    try:
        known: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return known if known.shape == shape and known.dtype == np.float32 else None


def _keep(file: Path, known: np.ndarray) -> None:
    """Write the file at once: an attempt that goes on from a checkpoint has to find the same numbers."""
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as stream:
        np.save(stream, known)
    sync_file(part)
    part.rename(file)
