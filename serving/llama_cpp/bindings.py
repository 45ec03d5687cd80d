"""What both users of llama.cpp's C interface do alike: engines here, and evaluations."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp as low

Adapter = ctypes.c_void_p
Entry = tuple[int, int, int, bool]
"""token, position, sequence, whether its logits are wanted"""


def tokenize(vocabulary: Any, text: str, add_special: bool) -> tuple[int, ...]:
    """Token ids; special tokens in the text count as such, as in training."""
    raw = text.encode()
    room = len(raw) + 8
    tokens = (low.llama_token * room)()
    count = low.llama_tokenize(vocabulary, raw, len(raw), tokens, room, add_special, True)
    return tuple(tokens[:count])


def piece(vocabulary: Any, token: int) -> bytes:
    """The token's text, which may end within a character; nothing for a special token."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = low.llama_token_to_piece(vocabulary, token, buffer, size, 0, False)
        if count >= 0:
            return buffer.raw[:count]
        size = -count


def fill(batch: Any, entries: Sequence[Entry]) -> None:
    """Make `batch`, which is large enough, hold these entries and no other."""
    batch.n_tokens = len(entries)
    for index, (token, position, sequence, wanted) in enumerate(entries):
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = sequence
        batch.logits[index] = wanted


def use(context: Any, adapter: Adapter | None) -> int:
    """Decode with this adapter alone, whole (scale 1), or with none; returns llama.cpp's code, 0 for done."""
    if adapter is None:
        return int(low.llama_set_adapters_lora(context, None, 0, None))
    adapters = (low.llama_adapter_lora_p_ctypes * 1)(adapter)
    return int(low.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)))
