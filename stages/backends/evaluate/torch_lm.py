"""A transformers model as an lm-eval model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from stages.backends.evaluate.continuations import common_beginning
from stages.backends.evaluate.token_lm import Row, TokenLM

PASS_TOKENS = 32
"""What one more pass through the model costs, in tokens: its weights are read from memory once more."""


class TorchLM(TokenLM):
    """Rows are padded on the right and masked, so that every token has its natural position.

    What all rows of a batch begin with (system message, template) is read once and kept for the next batch.
    """

    def __init__(self, model: Any, tokenizer: Any, **settings: Any) -> None:
        super().__init__(tokenizer, **settings)
        self.model = model.eval()
        self._device = next(model.parameters()).device
        self._shared = DynamicCache()
        self._cache = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    def close(self) -> None:
        """Forget the model and what was read; nobody else must hold it for its memory to come back."""
        self.model = self._shared = self._cache = None

    def _tokenize(self, text: str, special: bool) -> Row:
        return tuple(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def tok_decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    @torch.inference_mode()
    def _read(self, rows: Sequence[Row]) -> torch.Tensor:
        beginning = common_beginning(rows, self._beginning)
        self._cache, self._mask = self._start(beginning, len(rows))
        rests = [row[len(beginning) :] for row in rows]
        ends = torch.tensor([len(rest) - 1 for rest in rests])
        wanted = ends.unique()
        logits = self._forward(rests, wanted.to(self._device))
        return logits[torch.arange(len(rows)), torch.searchsorted(wanted, ends)]

    @torch.inference_mode()
    def _add(self, kept: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        if len(kept) < len(self._mask):
            self._select(kept)
        return self._forward([(token,) for token in tokens], 1)[:, 0]

    @torch.inference_mode()
    def _branch(self, parents: Sequence[int], rows: Sequence[Row]) -> list[torch.Tensor]:
        cache, mask = self._cache, self._mask
        after: dict[int, torch.Tensor] = {}
        for group in groups_to_read([len(row) for row in rows]):
            self._cache, self._mask = _shallow(cache), mask
            self._select([parents[index] for index in group])
            logits = self._forward([rows[index] for index in group], 0)
            after.update((index, read[: len(rows[index])]) for index, read in zip(group, logits, strict=True))
        return [after[index] for index in range(len(rows))]

    def _start(self, beginning: Row, rows: int) -> tuple[DynamicCache, torch.Tensor]:
        """A cache and a mask in which each of the rows already holds `beginning`."""
        if not beginning:
            return DynamicCache(config=self.model.config), torch.zeros(rows, 0, dtype=torch.long)
        if self._beginning != beginning:
            self._shared = DynamicCache(config=self.model.config)
            ids = torch.tensor([beginning], device=self._device)
            self.model(input_ids=ids, past_key_values=self._shared, use_cache=True, logits_to_keep=1)
            self._beginning = beginning
        cache = copy.deepcopy(self._shared)
        cache.batch_repeat_interleave(rows)
        return cache, torch.ones(rows, len(beginning), dtype=torch.long)

    def _select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows)
        self._cache.batch_select_indices(index.to(self._device))
        self._mask = self._mask[index]

    def _forward(self, rows: Sequence[Row], keep: int | torch.Tensor) -> torch.Tensor:
        """Append the rows to the cache; float32 logits [rows, kept positions, vocabulary] on the CPU."""
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        positions = self._mask.sum(dim=1, keepdim=True) + torch.arange(longest)
        self._mask = torch.cat([self._mask, mask], dim=1)
        output = self.model(
            input_ids=ids.to(self._device),
            attention_mask=self._mask.to(self._device),
            position_ids=positions.to(self._device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits.float().cpu()


def groups_to_read(lengths: Sequence[int]) -> list[list[int]]:
    """The indices of rows of these lengths (tokens) in groups that are cheapest to read.

    A group is padded to its longest row and costs its padded tokens and `PASS_TOKENS`; the best cut of the
    rows in order of length is found from the left.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ends = [k for k in range(1, len(order)) if lengths[order[k]] != lengths[order[k - 1]]] + [len(order)]
    best: dict[int, tuple[int, int]] = {0: (0, 0)}
    for end in ends:
        padded = lengths[order[end - 1]]
        best[end] = min(
            (cost + padded * (end - start) + PASS_TOKENS, start) for start, (cost, _) in best.items()
        )
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


def _shallow(cache: DynamicCache) -> DynamicCache:
    """The same tensors in a cache of its own: selecting rows of it leaves the other as it is."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied
