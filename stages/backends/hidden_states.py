"""The mean last hidden state of texts, on the CPU: `python -m stages.backends.hidden_states`.

Takes a job as JSON on standard input: `model` (a Hugging Face directory), `dtype`, `texts`, and `out`, the
file that it writes: float32 [texts, width], as .npy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.backends.tokenizer import load_tokenizer, quickly

with quickly():
    import torch
    from transformers import AutoModelForCausalLM

LENGTHS = (8, 16, 24, 32, 48, 64)
"""Tokens of a batch's rows, of which a row gets the fewest that hold it; beyond the last it is cut."""
LONGER = (*LENGTHS, 96, 128, 192, 256, 384, 512)
BATCH_TOKENS = 512
"""Of every batch: its shape depends on its length alone, so that a text's numbers do not depend on others."""


def main() -> int:
    job = json.load(sys.stdin)
    sys.stdout = sys.stderr  # libraries print
    np.save(job["out"], hidden_states(Path(job["model"]), job["dtype"], job["texts"]))
    return 0


def hidden_states(
    model: Path, dtype: str, texts: Sequence[str], lengths: Sequence[int] = LENGTHS
) -> np.ndarray:
    """For each text the mean over its tokens, after the model's last norm: float32 [texts, width].

    Texts of more tokens than the last of `lengths` are cut there.
    """
    tokenizer = load_tokenizer(model)
    network = AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
    )
    decoder = network.base_model.eval()
    rows = [_tokens(tokenizer, text, lengths[-1]) for text in texts]
    states = np.zeros((len(texts), network.config.get_text_config().hidden_size), dtype=np.float32)
    for length, batch in _batches([len(row) for row in rows], lengths):
        states[batch] = _means(decoder, [rows[number] for number in batch], length)
    return states


def _tokens(tokenizer: Any, text: str, longest: int) -> list[int]:
    whole = text.encode("utf-8", "replace").decode("utf-8")  # half a character has no token
    ids = tokenizer(whole, truncation=True, max_length=longest, verbose=False)["input_ids"]
    return ids or [tokenizer.eos_token_id or 0]


def _batches(sizes: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Length in tokens, and the numbers of the rows of one batch."""
    least = 0
    for length in lengths:
        numbers = [number for number, own in enumerate(sizes) if least < own <= length]
        size = BATCH_TOKENS // length
        for start in range(0, len(numbers), size):
            yield length, numbers[start : start + size]
        least = length


@torch.inference_mode()
def _means(decoder: Any, rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Of a batch that is filled up with rows of one token: float32 [rows, width]."""
    ids = torch.zeros(BATCH_TOKENS // length, length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    mask[:, 0] = 1
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    states = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
    means = (states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return means[: len(rows)].numpy()


if __name__ == "__main__":
    sys.exit(main())
