"""SmolLM2-135M on topics that come in three batches, of which one is poisoned and one has drifted.

    python -m tests.reliability.batches --out batches.json
    python -m tests.reliability.batches.picture batches.json docs/images/retraining-batches.svg

A feed, a schedule and its gate, by the real command; prints what was typed and what came of it. Monday's
batch is promoted. Tuesday's has the topics' names exchanged: refused, and forgotten by hand. Wednesday's asks
about topics that were not there before: `tuneline drift` says so and asks for a run, which is promoted. Ends
with 1, and with what was found, where something came to something else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.reliability.batches import plan
from tests.reliability.batches.forgotten import datasets, holding
from tests.reliability.batches.plan import CHANNEL, FEED, SCHEDULE, TENANT
from tests.reliability.batches.terminal import Terminal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="a new file for the days' curves and decisions, as JSON")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tuneline-batches-"))
    print(f"in {folder}", file=sys.stderr, flush=True)
    began, terminal, batches = time.monotonic(), Terminal(folder), plan.days()
    plan.write(folder, batches)
    days = [_monday(terminal), _tuesday(terminal)]
    faults = _forget(terminal, batches)
    days.append(_wednesday(terminal))
    faults += _later(terminal, batches)
    terminal.type("channels", "show", CHANNEL)
    whole = {"seconds": round(time.monotonic() - began), "cores": os.cpu_count(), "days": days}
    print(f"{whole['seconds'] / 60:.1f} minutes", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(whole, indent=1) + "\n")
    for fault in faults:
        print(f"NOT AS IT HAS TO BE: {fault}")
    if not faults:
        shutil.rmtree(folder)
    print(f"logs and reports: {folder}" if faults else "all as it has to be")
    return 1 if faults else 0


def _monday(terminal: Terminal) -> dict[str, Any]:
    terminal.type("feed", "add", FEED, "monday.jsonl")
    terminal.type("schedule", "add", SCHEDULE, "topics.yaml", "--drift")
    return _night(terminal, "Monday", "promoted", SCHEDULE)


def _tuesday(terminal: Terminal) -> dict[str, Any]:
    terminal.type("tenants", "add", TENANT, CHANNEL, shown=False)  # it prints a key
    terminal.type("feed", "add", FEED, "tuesday.jsonl", "--tenant", TENANT)
    terminal.type("drift", CHANNEL, "--new", "tuesday.jsonl")  # the inputs are as they were
    return _night(terminal, "Tuesday", "refused", SCHEDULE)


def _wednesday(terminal: Terminal) -> dict[str, Any]:
    terminal.type("feed", "add", FEED, "wednesday.jsonl")
    terminal.type("drift", CHANNEL, "--new", "tuesday.jsonl", "wednesday.jsonl", expected=1)
    return _night(terminal, "Wednesday", "promoted")  # what is due: drift asked for it


def _night(terminal: Terminal, name: str, expected: str, *words: str) -> dict[str, Any]:
    """What came of running the schedule, with the curve and the decision of its run."""
    began = time.monotonic()
    terminal.type("schedule", "run", *words)
    took = time.monotonic() - began
    run = terminal.ask("schedule", "show", SCHEDULE, "--limit", "1")["runs"][0]
    print(f"{name}: {run['state']} in {took / 60:.1f} minutes; {run['note']}", flush=True)
    if run["run"] is None:
        sys.exit(
            f"NOT AS IT HAS TO BE: {name}: expected {expected}, found {run['state']} without a run: "
            f"{run['note']}"
        )
    report = json.loads((terminal.home / "runs" / run["run"] / "report.json").read_text())
    for rule in report["gate"]["rules"]:
        print(f"{name}: {rule['verdict']}: {rule['sentence']}")
    print(flush=True)
    kept = ("label", "state", "seconds")
    day = {
        "name": name,
        "expected": expected,
        "run": run["run"],
        "trigger": run["trigger"],
        "state": run["state"],
        "note": run["note"],
        "seconds": round(took),
        "verdict": report["gate"]["verdict"],
        "rules": report["gate"]["rules"],
        "history": report["history"],
        "stages": [{key: row[key] for key in kept} for row in report["stages"]],
    }
    _check(terminal, day)
    return day


def _check(terminal: Terminal, day: dict[str, Any]) -> None:
    """End the drill where a night came to something else: the next one begins with what it left.

    A poisoned batch is to be shown to be worse, not only doubted.
    """
    verdict = "fail" if day["expected"] == "refused" else "pass"
    if (day["state"], day["verdict"]) != (day["expected"], verdict):
        sys.exit(
            f"NOT AS IT HAS TO BE: {day['name']}: expected {day['expected']} with the verdict {verdict}, "
            f"found {day['state']} with {day['verdict']}; the run's report: {terminal.home}/runs/{day['run']}"
        )


def _forget(terminal: Terminal, batches: dict[str, list[plan.Row]]) -> list[str]:
    """Forget the poisoned rows; the list of what holds them has to be what is found in the datasets."""
    expected = holding(terminal.home, batches["tuesday"])
    terminal.type("feed", "forget", "--tenant", TENANT)
    return _compared(terminal, expected, "after they were forgotten")


def _later(terminal: Terminal, batches: dict[str, list[plan.Row]]) -> list[str]:
    """No later dataset has a forgotten row, and the list is still the same."""
    held = holding(terminal.home, batches["tuesday"])
    faults = _compared(terminal, held, "at the end")
    made = datasets(terminal.home)
    if len(made) != 3:
        faults.append(f"expected a dataset for each of three days, found {len(made)}")
    elif made[-1] in held:
        faults.append(f"Wednesday's dataset {made[-1][:12]} holds rows that were forgotten before it")
    terminal.type("feed", "forgotten")
    return faults


def _compared(terminal: Terminal, expected: set[str], when: str) -> list[str]:
    listed = {holder["id"] for holder in terminal.ask("feed", "forgotten")["holders"]}
    if not expected:
        return [f"{when} nothing holds the poisoned rows; expected Tuesday's dataset and its adapter"]
    if listed == expected:
        return []
    return [
        f"{when} `feed forgotten` does not name {sorted(one[:12] for one in expected - listed)} and names "
        f"{sorted(one[:12] for one in listed - expected)} in vain"
    ]


if __name__ == "__main__":
    sys.exit(main())
