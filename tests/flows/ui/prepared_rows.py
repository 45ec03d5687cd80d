"""A dataset with real rows, and the base that renders them."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet

from registry import Artifact, Registry
from registry.artifacts import QuantSpec
from tests.flows.lineages import base_reference, publish

SENSITIVE = [
    ("My IBAN is DE89 3704 0044 0532 0130 00, was it charged twice?", "Ask the bank about the account."),
    ("How warm is it in Bo today?", "It is warm in Bo today."),
    ("My key AKIAIOSFODNN7EXAMPLE does not work any more", "Make another key and remove this one."),
]
"""Questions and answers; the first and the last hold something that should not be trained on."""


def prepared_rows(registry: Registry, tokenizer: Path) -> Artifact:
    """A dataset of `SENSITIVE`, two rows to train on and one to test, and the base that renders it."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    files = {name: (tokenizer / name).read_bytes() for name in names if (tokenizer / name).is_file()}
    reference = base_reference(source="pico:0")
    base = publish(registry, "base", "resolve", files, base=reference, quant=QuantSpec(method="none"))
    data = {"train.parquet": _parquet(SENSITIVE[:2]), "test.parquet": _parquet(SENSITIVE[2:])}
    return publish(registry, "dataset", "prepare", data, (("tokenized_for", base),))


def _parquet(rows: list[tuple[str, str]]) -> bytes:
    chats = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in rows
    ]
    columns = {"messages": chats, "tokens": [20] * len(rows), "trainable": [8] * len(rows)}
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()
