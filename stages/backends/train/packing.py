"""Several rows in one sequence, only where the model's attention keeps them apart."""

from __future__ import annotations

import inspect
from bisect import bisect_left, insort
from collections import defaultdict, deque
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.backends.train.rows import Rows
from stages.errors import InvalidInput

TOGETHER = 1000
"""Rows that are packed with each other."""

TOLERANCE = 0.05
"""Largest relative difference that 16-bit rounding explains; a row that sees another differs by far more."""


class Packed:
    """Rows in sequences of up to `size` tokens: each into the one with the least room for it, the longest
    rows first, as TRL's `pack_dataset` does (best fit decreasing, arXiv:2404.10830).

    `lengths`, `tokens`: int64 of shape (sequences,).
    """

    def __init__(self, rows: Rows, size: int) -> None:
        starts = range(0, len(rows), TOGETHER)
        filled = [
            first + np.array(places)
            for first in starts
            for places in _best_fit(rows.lengths[first : first + TOGETHER], size)
        ]
        self._rows = rows
        self._ends = np.cumsum([len(places) for places in filled])
        self._places = np.concatenate(filled)
        ends_in_tokens = np.cumsum(rows.lengths[self._places], dtype=np.int64)[self._ends - 1]
        self.lengths = self.tokens = np.diff(ends_in_tokens, prepend=0)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, sequence: int) -> dict[str, Any]:
        """`input_ids` and `labels`: int64 of shape (tokens,); `seq_lengths`: tokens of each row in it."""
        end = int(self._ends[sequence])
        start = int(self._ends[sequence - 1]) if sequence else 0
        rows = [self._rows[int(place)] for place in self._places[start:end]]
        packed = {name: np.concatenate([row[name] for row in rows]) for name in ("input_ids", "labels")}
        return {**packed, "seq_lengths": [len(row["labels"]) for row in rows]}


def _best_fit(lengths: np.ndarray, size: int) -> list[list[int]]:
    """The places of the rows of each sequence. Of sequences with as much room the oldest is filled first."""
    filled: list[list[int]] = []
    by_room: defaultdict[int, deque[list[int]]] = defaultdict(deque)
    rooms: list[int] = []
    for place in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[place])
        at = bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            sequence = by_room[room].popleft()
            if not by_room[room]:
                del rooms[at]
        else:
            room, sequence = size, []
            filled.append(sequence)
        sequence.append(place)
        if left := room - length:
            if not by_room[left]:
                insort(rooms, left)
            by_room[left].append(sequence)
    return filled


def mixing(model: PreTrainedModel) -> float:
    """How much a row's logits change when another row is packed before it: ‖a − b‖ / ‖b‖, 0 when kept apart.

    Positions start again at 0 with each row and there is no attention mask, as in packed training.
    """
    ids = torch.arange(5, 29, device=model.device)[None] % model.config.get_text_config().vocab_size
    first, second = ids[:, :16], ids[:, 16:]
    positions = torch.cat([torch.arange(16), torch.arange(8)]).to(model.device)[None]
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
        alone = model(input_ids=second, use_cache=False).logits.float()
        packed = model(
            input_ids=torch.cat([first, second], dim=1), position_ids=positions, use_cache=False
        ).logits[:, 16:]
    model.train(was_training)
    return float((packed.float() - alone).norm() / alone.norm())


def require_rows_apart(model: PreTrainedModel) -> None:
    """Raise `InvalidInput` where packed rows would read each other."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(inner.forward).parameters:
        raise InvalidInput(
            f"train.packing: {type(inner).__name__} takes no positions, so packed rows would read each "
            "other; set train.packing: false"
        )
    change = mixing(model)
    if change > TOLERANCE:
        raise InvalidInput(
            f"train.packing: with this model's attention packed rows read each other (logits change by "
            f"{change:.0%}, expected below {TOLERANCE:.0%}); set train.packing: false"
        )
