"""A stage killed at random moments and run again: `python -m tests.reliability.kills train --kills 10`.

Each attempt is a process of its own, in the same folder; SIGKILL comes a random part of an unbroken run's
time after its imports. The attempt that reaches the end has to have written the unbroken run's files, byte
for byte. Then the next folder begins, until there were as many kills. Prints one JSON document: for each
attempt what was done before it was killed (steps or layers); exits with 1 where a file differs.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.config.base import BaseConfig
from stages.config.train import TrainConfig
from stages.contract import Parent
from stages.quantization.gptq import GptqConfig
from stages.resolve import resolve
from tests.conftest import as_parent
from tests.stages.families.tiny_models import save_chats, save_family

LAYERS, STEPS = 6, 40
ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import json, logging, os, sys
from pathlib import Path
from stages.contract import Parent
from stages.quantization.gptq import GptqConfig
from stages.quantize import quantize
from stages.train import TrainConfig, train

class Tell(logging.Handler):
    def emit(self, record):
        if hasattr(record, "progress"):
            print(record.progress["done"], file=sys.__stdout__, flush=True)

logging.getLogger("tuneline.stage").addHandler(Tell())
logging.getLogger("tuneline.stage").setLevel(logging.INFO)
stage, parents, config, out = sys.argv[1:]
parents = {role: Parent.model_validate(parent) for role, parent in json.loads(parents).items()}
if stage == "train":
    import stages.backends.train.qlora
    work = lambda: train(parents, TrainConfig.model_validate_json(config), Path(out))
else:
    from stages.backends.gptq.load import library
    import stages.backends.gptq.quantize
    library()
    work = lambda: quantize(parents, GptqConfig.model_validate_json(config), Path(out))
print("begun", file=sys.__stdout__, flush=True)
facts = work()
print(facts.model_dump_json(), file=sys.__stdout__, flush=True)
os._exit(0)  # to end in order takes as long as the work
"""


@dataclass(frozen=True)
class Job:
    """A stage with its inputs."""

    stage: str
    parents: dict[str, Parent]
    config: TrainConfig | GptqConfig

    def start(self, out: Path) -> subprocess.Popen[str]:
        """A process that does it in `out`; its first line comes after its imports."""
        parents = {role: parent.model_dump(mode="json") for role, parent in self.parents.items()}
        arguments = [self.stage, json.dumps(parents), self.config.model_dump_json(), str(out)]
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        )  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """What one process reported: the steps or layers done, its facts if it came to its end; `left`: files of
    unfinished work."""

    done: list[int]
    facts: str | None
    seconds: float
    left: int


def attempt(job: Job, out: Path, kill_after: float | None = None) -> Attempt:
    """Do `job` in `out` in a process that is killed so many seconds after its imports, if it lasts so long.

    Raises `RuntimeError` where the process ended otherwise.
    """
    out.mkdir(exist_ok=True)
    process = job.start(out)
    assert process.stdout is not None
    with process.stdout:
        if "begun\n" not in process.stdout:  # reads until there; libraries may print before it
            raise RuntimeError(f"{job.stage} did not begin: exit status {process.wait()}")
        begun = time.monotonic()
        timer = threading.Timer(kill_after or 0.0, process.kill)
        if kill_after is not None:
            timer.start()
        lines = process.stdout.read().splitlines()
    timer.cancel()
    status = process.wait()
    if status not in (0, -signal.SIGKILL) or (status and kill_after is None):
        raise RuntimeError(f"{job.stage} ended with exit status {status} after {lines}")
    done = [int(line) for line in lines if line.isdigit()]
    facts = next((line for line in lines if line.startswith("{")), None)
    left = sum(file.is_file() for file in (out / "checkpoints").rglob("*"))
    return Attempt(done, facts, time.monotonic() - begun, left)


def files_of(out: Path) -> dict[str, bytes]:
    """All files under `out`."""
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def training(folder: Path) -> Job:
    """A pico model on short chats, with dropout, in rows of several lengths and epochs."""
    base = _resolved("pico:0", folder / "base")
    dataset = Parent(id="d" * 64, kind="dataset", path=_mixed(save_chats(folder / "chats")))
    config = TrainConfig.model_validate(
        {
            "lora": {"rank": 4, "dropout": 0.1}, "batch_size": 2, "gradient_accumulation": 2, "epochs": 9,
            "max_steps": STEPS, "checkpoint_every": 3, "evaluations": 3, "learning_rate": 1e-3,
        }
    )  # fmt: skip
    return Job("train", {"base": base, "dataset": dataset}, config)


def quantization(folder: Path, layers: int = LAYERS) -> Job:
    """GPTQ of a tiny Llama."""
    saved = save_family("llama", folder / "saved", num_hidden_layers=layers)
    model = _resolved(f"path:{saved}", folder / "base")
    dataset = Parent(id="d" * 64, kind="dataset", path=save_chats(folder / "chats"))
    config = GptqConfig(group_size=32, calibration_rows=24, compute_dtype="float32")
    return Job("quantize", {"model": model, "dataset": dataset}, config)


def _resolved(source: str, folder: Path) -> Parent:
    folder.mkdir()
    return as_parent(resolve({}, BaseConfig(source=source), folder), folder)


def _mixed(chats: Path) -> Path:
    """Rows of many lengths, so that their order shows in the batches."""
    for file in chats.glob("*.parquet"):
        rows = pq.read_table(file).to_pylist()
        for number, row in enumerate(rows):
            answer = row["messages"][1]
            answer["content"] = " ".join(answer["content"].split()[: 2 + number % 7])
        pq.write_table(pa.Table.from_pylist(rows), file)
    return chats


JOBS = {"train": training, "quantize": quantization}


def trial(job: Job, folder: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """As many kills as asked, in as many folders as it takes."""
    whole = attempt(job, folder / "whole")
    expected = files_of(folder / "whole")
    found: list[dict[str, Any]] = []
    ends, differ, killed = 0, set[str](), 0
    while killed < kills or found[-1]["killed"]:
        out = folder / f"broken-{ends}"
        last = attempt(job, out, draw.uniform(0, whole.seconds) if killed < kills else None)
        killed_now = last.facts is None
        found.append({"folder": ends, "done": last.done, "killed": killed_now, "left": last.left})
        killed += killed_now
        if last.facts is not None:
            ends += 1
            made = files_of(out)
            differ |= {name for name in expected | made if expected.get(name) != made.get(name)}
            differ |= {"facts"} if last.facts != whole.facts else set()
    return {
        "stage": job.stage, "kills": killed, "finished": ends, "attempts": found,
        "bytes compared": sum(map(len, expected.values())), "differ": sorted(differ),
        "went on": sum(bool(one["done"]) and one["done"][0] > 1 for one in found),
        "seconds of an unbroken run": round(whole.seconds, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=sorted(JOBS))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    with TemporaryDirectory() as name:
        job = JOBS[arguments.stage](Path(name))
        report = trial(job, Path(name), arguments.kills, random.Random(arguments.seed))
    answers.write(json.dumps(report, indent=1) + "\n")
    return int(bool(report["differ"]))


if __name__ == "__main__":
    sys.exit(main())
