"""Rows to prepare, and what is found in a prepared dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages.contract import Facts
from stages.data.dedupe import normalized
from stages.data.split import SPLITS

CORPUS = "package:chatterbot-corpus/chatterbot_corpus/data/english"
Row = dict[str, Any]
Prepare = Callable[..., Facts]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int) -> list[Row]:
    return [{"prompt": f"What is number {n} times {n * n}?", "completion": f"{n**3}"} for n in range(count)]


def splits(out: Path) -> dict[str, list[Row]]:
    return {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in SPLITS}


def rejects(out: Path) -> list[Row]:
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def prompts_of(rows: list[Row]) -> set[str]:
    return {normalized(" / ".join(m["content"] for m in row["messages"][:-1])) for row in rows}
