"""Chats about topics, and how a pico model is asked about them: by a language model, a task or the verb."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.api.instance import Instance

from stages.backends.chat import control_tokens, render
from stages.config.evaluate import EvaluateConfig, HeldoutTask
from stages.config.train import Nf4Config
from stages.contract import Facts, Parent
from stages.evaluate import evaluate

SYSTEM = "Name the topic."
TOPICS = ("food", "history", "computers", "tech_support", "sports")
NF4 = Nf4Config(compute_dtype="float32")


def answer(topic: str) -> str:
    return json.dumps({"topic": topic})


def chat(k: int, said: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Tell me about {' and '.join(['thing'] * (k % 4 + 1))} number {k}."},
        {"role": "assistant", "content": said},
    ]


def write_dataset(folder: Path, rows: Sequence[list[dict[str, str]]]) -> Parent:
    folder.mkdir()
    columns = {"messages": list(rows), "prompt_hash": [str(i) for i in range(len(rows))]}
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return Parent(id=hashlib.sha256(folder.name.encode()).hexdigest(), kind="dataset", path=folder)


def settings(tokenizer: Any, batch_size: int = 4) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "stop_ids": frozenset(control_tokens(tokenizer)),
        "rendered": True,
    }


def pairs(tokenizer: Any) -> list[tuple[str, str]]:
    """Contexts of several lengths with a shared beginning, each with one-token and longer continuations."""
    prompts = [render(tokenizer, chat(k, "")[:-1], add_generation_prompt=True) for k in range(7)]
    return [(prompt + '{"topic": "', end) for prompt in prompts for end in (*TOPICS, "food and history")]


def instances(kind: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, argument, 0) for argument in arguments]


def config(**given: Any) -> EvaluateConfig:
    task = HeldoutTask(name="routing", choice=True, max_new_tokens=6)
    return EvaluateConfig.model_validate(
        {"tasks": (task,), "batch_size": 8, "compute_dtype": "float32", **given}
    )


def run(tmp_path: Path, name: str, parents: dict[str, Parent], given: EvaluateConfig) -> tuple[Facts, Path]:
    out = tmp_path / name
    out.mkdir()
    return evaluate(parents, given, out), out
