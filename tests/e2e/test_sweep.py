"""`tuneline sweep` on the 2-layer model: killed, gone on with, and judged once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from registry import Registry
from tests.e2e.conftest import Tuneline, states
from tests.seconds import seconds

SWEEP = """
recipe: pico-smoke
search: {train.learning_rate: [1.0e-2, 1.0e-5]}
pruning: null
"""
FASTER = 1.0e-2
"""The recipe's own."""
QUICK = ("--set", "deploy=null")
Sweep = tuple[Tuneline, dict[str, Any]]


@pytest.fixture(scope="module")
def sweep(pico: tuple[Tuneline, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep that was killed in a training and started again, after a run of its recipe."""
    tuneline, _ = pico
    file = tmp_path_factory.mktemp("sweep-file") / "sweep.yaml"
    file.write_text(SWEEP)
    with started(tuneline, file) as process:
        heard(process, "train adapter: started")
        stages = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    psutil.wait_procs(stages, timeout=seconds(60))
    return tuneline, tuneline.json("sweep", str(file), *QUICK)


def started(tuneline: Tuneline, file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("tuneline"), "sweep", str(file), *QUICK, "--json"],
        env=tuneline.environment(),
        cwd=tuneline.home.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def heard(process: subprocess.Popen[str], words: str) -> None:
    """Wait until it says so."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return
    raise AssertionError(f"{words!r} was not said: {''.join(lines)}")


def test_the_best_trial_is_judged_on_rows_that_no_trial_read(sweep: Sweep) -> None:
    tuneline, document = sweep
    assert document["exit_code"] == 0, document
    found, run = document["sweep"], document["run"]
    assert [trial["ended"] for trial in found["trials"]] == ["whole", "whole"]
    best = found["trials"][found["best"] - 1]
    assert best["values"] == {"train.learning_rate": FASTER}
    assert run["gate"]["verdict"] == "pass"
    with Registry.open(tuneline.home) as registry:
        for trial in found["trials"]:
            metrics = registry.get(trial["evaluation"]).manifest.metrics
            assert "of the validation split of dataset" in metrics["measured_on"]
            assert list(metrics["tasks"]) == ["routing on validation"]
        for id_ in run["gate"]["evaluations"].values():
            assert "of the test split of dataset" in registry.get(id_).manifest.metrics["measured_on"]
    adapter = next(row["artifact_id"] for row in run["stages"] if row["label"] == "train adapter")
    assert adapter == best["adapter"]
    page = Path(document["page"]).read_text("utf-8")
    assert page.count("<svg") == 2
    assert "Gate passed" in page


def test_what_was_made_before_is_not_made_again(sweep: Sweep) -> None:
    """By the run of the recipe, and by the sweep that was killed."""
    _, document = sweep
    search, judged = (states(document[part]) for part in ("search", "run"))
    trained = {
        trial["values"]["train.learning_rate"]: search[f"trial {trial['trial']}: train adapter"]
        for trial in document["sweep"]["trials"]
    }
    assert trained == {FASTER: "reused", 1.0e-5: "ran"}
    assert set(judged.values()) <= {"reused", "ran"}
    assert {label for label, state in judged.items() if state == "ran"} <= {"gate", "promote"}
    events = [json.loads(line) for line in trials_file(document).read_text().splitlines()]
    assert sum("drawn" in event for event in events) == 2, "values are drawn once"


def trials_file(document: dict[str, Any]) -> Path:
    return Path(document["sweep"]["folder"]) / "trials.jsonl"
