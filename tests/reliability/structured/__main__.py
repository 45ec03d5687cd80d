"""SmolLM2-135M learns to call five tools and to write an order's six fields as JSON, and is served.

    python -m tests.reliability.structured --out structured.json

1,500 made-up rows, half of them requests with tools, half e-mails with an order; two recipes by the real
command, to an endpoint each. Their gates ask that names, arguments and each field are better than the
quantized base's on held-out rows. Then every held-out row is asked over HTTP by the openai client, with its
tools or with the order's schema: each answer has to be allowed, and to be the recorded one where that was
allowed too. Ends with 1, and with what was found, where something came to something else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from registry.evaluation_results import Item
from tests.reliability.batches.terminal import Terminal
from tests.reliability.structured import plan, rows, served
from tests.reliability.structured.rows import Made

TASKS = {"calls": (rows.call, served.ask_calls), "orders": (rows.order, served.ask_orders)}
Report = dict[str, Any]
MOST_KNOWN = 0.5
"""Share of the held-out rows whose values all stand in training rows too: the split is honest below it."""
LEAST_COMPARED = 0.8
"""Share of the held-out rows whose recorded answer is allowed, so that the served one has to be the same."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="a new file for the figures and answers, as JSON")
    parser.add_argument("--rows", type=int, default=750, help="of each of the two tasks")
    parser.add_argument("--test", type=float, default=0.1, help="share of the rows that is held out")
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--folder", type=Path, help="where to work, and to go on from; default: a new one")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="tuneline-structured-"))).resolve()
    print(f"in {folder}", file=sys.stderr, flush=True)
    began, faults, whole = time.monotonic(), list[str](), dict[str, Any](cores=os.cpu_count())
    for name, (kind, _) in TASKS.items():
        made = rows.made(kind, arguments.rows, arguments.seed)
        plan.write(folder, name, made, arguments.test)
        whole[name], found = _task(Terminal(folder), name, made)
        faults += [f"{name}: {fault}" for fault in found]
    whole["seconds"] = round(time.monotonic() - began)
    print(f"{whole['seconds'] / 60:.1f} minutes", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(whole, indent=1) + "\n")
    for fault in faults:
        print(f"NOT AS IT HAS TO BE: {fault}")
    if not faults and arguments.folder is None:
        shutil.rmtree(folder)
    print(f"logs and reports: {folder}" if faults else "all as it has to be")
    return 1 if faults else 0


def _task(terminal: Terminal, name: str, made: Mapping[str, Made]) -> tuple[dict[str, Any], list[str]]:
    """One recipe from its rows to its endpoint, which is asked and stopped; figures and faults."""
    terminal.type("run", f"{name}.yaml")
    report: Report = json.loads(sorted(terminal.home.glob("runs/*/report.json"))[-1].read_text())
    try:
        ids = {stage["label"]: stage["artifact_id"] for stage in report["stages"]}
        views = terminal.home / "views"
        samples = (views / ids["evaluate gguf-q8_0"] / f"samples_{name}.jsonl").read_text()
        items: list[Item] = [json.loads(line) for line in samples.splitlines()]
        novel = _novelty(views / ids["prepare data"], items, made)
        began, ask = time.monotonic(), TASKS[name][1]
        answers = ask(served.client(report["endpoint"]["url"]), items, made)
        took = time.monotonic() - began
    finally:
        terminal.type("endpoints", "stop", report["endpoint"]["id"])
    scores = _scores(report, name)
    for metric, (base, tuned) in scores.items():
        print(f"{name}: {metric}: base {_shown(base)}, tuned {_shown(tuned)}, n = {tuned['n']}")
    for rule in report["gate"]["rules"]:
        print(f"{name}: {rule['verdict']}: {rule['sentence']}")
    counts = {
        "items": len(answers),
        "same": sum(one.same for one in answers),
        "recorded_fits": sum(one.recorded_fits for one in answers),
        "cut_off": sum(one.cut_off for one in answers),
        "seconds": round(took, 1),
    }
    print(f"{name}: held out {novel}; served {counts}", flush=True)
    kept = ("label", "state", "seconds")
    figures = {
        "stages": [{key: row[key] for key in kept} for row in report["stages"]],
        "scores": {metric: {"base": base, "tuned": tuned} for metric, (base, tuned) in scores.items()},
        "gate": report["gate"],
        "held_out": novel,
        "served": counts,
        "answers": [one._asdict() for one in answers],
    }
    return figures, [*_unfair(novel), *_unlike(report, answers)]


def _scores(report: Report, name: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Metric → the quantized base's and the promoted file's, each with its interval."""
    models = {model["label"]: model["scores"] for model in report["models"]}
    base, tuned = models["base NF4"], models["gguf-q8_0"]
    return {
        metric: (base[f"{name} {metric}"], tuned[f"{name} {metric}"])
        for metric in (*plan.SCORES[name], "exact_match")
    }


def _shown(score: Mapping[str, float]) -> str:
    return f"{score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f})"


def _novelty(dataset: Path, items: list[Item], made: Mapping[str, Made]) -> dict[str, int]:
    """Of the held-out rows, how many have a wording, and how many a value, that no training row has."""
    train = pq.read_table(dataset / "train.parquet", columns=["messages"]).to_pylist()
    known = [made[row["messages"][-2]["content"]] for row in train]
    wordings = {one.wording for one in known}
    values = frozenset[str]().union(*(one.values for one in known))
    tested = [made[item["asked"]] for item in items]
    return {
        "train": len(known),
        "rows": len(tested),
        "new_wording": sum(one.wording not in wordings for one in tested),
        "new_value": sum(not one.values <= values for one in tested),
        "all_known": sum(one.wording in wordings and one.values <= values for one in tested),
    }


def _unfair(novel: Mapping[str, int]) -> list[str]:
    if novel["all_known"] <= MOST_KNOWN * novel["rows"]:
        return []
    return [f"{novel['all_known']} of {novel['rows']} held-out rows have nothing that training rows have not"]


def _unlike(report: Report, answers: list[served.Served]) -> list[str]:
    """What the gate, or the endpoint's answers, are not as they have to be."""
    verdict = report["gate"]["verdict"]
    faults = [] if verdict == "pass" else [f"expected the gate's verdict pass, found {verdict}"]
    for one in answers:
        if not one.fits:
            faults.append(f"{one.question!r}: the answer {one.answer!r} is not allowed")
        elif one.recorded_fits and not one.same:
            faults.append(f"{one.question!r}: recorded {one.recorded!r}, served {one.answer!r}")
    compared = sum(one.recorded_fits for one in answers)
    if compared < LEAST_COMPARED * len(answers):
        faults.append(f"only {compared} of {len(answers)} recorded answers are allowed, and so compared")
    return faults


if __name__ == "__main__":
    sys.exit(main())
