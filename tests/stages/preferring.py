"""Answers that somebody preferred or called good, and how likely a model finds one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional

from registry.artifacts import digest
from stages.backends.train import lora
from stages.backends.train.pairs import Pairs
from stages.backends.train.rows import IGNORED
from stages.contract import Parent

TOPICS = ("network", "printer", "movie", "planet", "music", "money", "sport", "food")
ROW = pa.schema(
    {
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "rejected": pa.struct({"role": pa.string(), "content": pa.string()}),
    }
)


def pair(draw: random.Random) -> dict[str, Any]:
    topic = draw.choice(TOPICS)
    words = " ".join(draw.choice(["what", "is", "a", "good", "way"]) for _ in range(draw.randint(2, 12)))
    asked = {"role": "user", "content": f"{words} {topic}"}
    other = " ".join(draw.choice(["well", "who", "knows"]) for _ in range(draw.randint(1, 6)))
    return {
        "messages": [asked, {"role": "assistant", "content": json.dumps({"topic": topic})}],
        "rejected": {"role": "assistant", "content": other},
    }


def write_pairs(folder: Path, rows: list[dict[str, Any]], validation: int = 8) -> Parent:
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    for split, some in (("train", rows), ("validation", [pair(draw) for _ in range(validation)])):
        pq.write_table(pa.Table.from_pylist(some, ROW), folder / f"{split}.parquet")
    return Parent(id=digest(rows), kind="dataset", path=folder)


def sides(pairs: Pairs, place: int) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of the chosen chat, and of the rejected one."""
    both = zip(pairs[place]["input_ids"], pairs[place]["labels"], strict=True)
    return [(ids.tolist(), labels.tolist()) for ids, labels in both]


def likelihood(model: Any, ids: list[int], labels: list[int]) -> torch.Tensor:
    """Of one chat's answer, from all of its logits."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    found = functional.log_softmax(logits[:-1], dim=-1)
    wanted = torch.tensor(labels[1:])
    places = (wanted != IGNORED).nonzero().flatten()
    return found[places, wanted[places]].sum()


def move(model: Any) -> None:
    """Make the adapter of `model` another one than it was."""
    draw = torch.Generator().manual_seed(3)
    for name, weight in lora.trainable(model):
        if "lora_B" in name:
            weight.data += torch.randn(weight.shape, generator=draw) * 0.02
