"""Held-out chats by their place in the test split, and how long their prompts are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from stages.backends.chat import Message, encode, load_tokenizer


def prompts(dataset: Path, base: Path, places: Sequence[int]) -> list[tuple[list[Message], str, int]]:
    """(messages before the answer, the answer, tokens of the prompt as `base` renders it) of each place."""
    rows = pq.read_table(dataset / "test.parquet", columns=["messages"])["messages"]
    tokenizer = load_tokenizer(base)
    rendered = []
    for row in places:
        *messages, answer = rows[row].as_py()
        tokens = len(encode(tokenizer, messages, add_generation_prompt=True))
        rendered.append((messages, str(answer["content"]), tokens))
    return rendered
