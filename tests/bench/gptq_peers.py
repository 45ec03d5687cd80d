"""GPTQ by our stage beside GPTQModel's own API: the same model, calibration rows, bits and group size.

    python -m tests.bench.gptq_peers [--model 135m] [--rows 64] [--rounds 3]

The model is SmolLM2-135M (or `pico`, two layers), the rows are those that the stage chooses of the demo's
training split, as token ids, with the demo's bits and group size. *README*: `GPTQModel.load`, `quantize` and
`save` as its README shows them, a row at a time. *README, tuned*: with as many rows at a time as ours, and in
the type that ours computes in. Each runs in a process of its own, in turns; seconds are those of processes,
with imports, and the medians of all rounds. GPTQModel compiles its packer once for a home directory, which it
has done here before it is measured; it is told of two workers, without which it does not start on two cores.
Ours checks the input, keeps each layer for a run that goes on after a kill, and exports for all engines. The
bar is to take no longer than either.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.recipe import Recipe, load
from flows.run.child import child_environment, run_in_child
from registry.artifacts import digest
from stages.backends.arithmetic import measure
from stages.contract import Parent
from stages.quantization.gptq import GptqConfig
from tests.bench.results import Report

SOURCES = {"135m": [], "pico": ["base.source=pico:0"]}
OURS, README, TUNED = TOOLS = ("tuneline", "GPTQModel, README", "GPTQModel, README, tuned")
ROWS_AT_ONCE = 8
"""Of ours: `stages.backends.gptq.quantize.BATCH_ROWS`, which is not imported here with all its libraries."""
THEIRS = """
import json, math, sys
from pathlib import Path
from gptqmodel import GPTQConfig, GPTQModel
model, rows, out, bits, group_size, batch, dtype = sys.argv[1:]
given = {"dtype": dtype} if dtype != "default" else {}
quantizer = GPTQModel.load(model, GPTQConfig(bits=int(bits), group_size=int(group_size)), **given)
logged = quantizer.quantize(json.loads(Path(rows).read_text()), batch_size=int(batch))
quantizer.save(out)
def number(text):
    try: return float(text)
    except ValueError: return math.nan
losses = [number(entry["loss"]) for entry in logged["gptq"]]
peak = 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
(Path(out) / "measured.json").write_text(json.dumps([peak, [x for x in losses if math.isfinite(x)]]))
"""


@dataclass(frozen=True)
class Quantized:
    """Seconds of the process, bytes of its peak, and the squared error of each module that has one."""

    seconds: float
    peak: int
    losses: list[float]


@dataclass(frozen=True)
class Input:
    """What both quantize, and the rows of token ids in a JSON file."""

    model: Parent
    data: Parent
    rows: Path
    config: GptqConfig


def make(recipe: Recipe, config: GptqConfig, folder: Path) -> Input:
    """The model, the data, and the rows that our stage will calibrate on."""
    from stages.backends.gptq.calibration import choose

    made: dict[str, Parent] = {}
    for name, verb, settings in (("base", "resolve", recipe.base), ("data", "prepare", recipe.prepare)):
        out = folder / name
        out.mkdir(parents=True)
        done = run_in_child(verb, made, settings, out, folder / f"{name}.log", lambda _: None)
        made[name] = Parent.model_validate({"id": digest(name), "path": out, **done.facts})
    base, data = made["base"], made["data"]
    chosen = choose(base.path, data.path, config.calibration_rows, config.seed, 2048)
    (folder / "rows.json").write_text(json.dumps(chosen.rows))
    return Input(base, data, folder / "rows.json", config)


def ours(given: Input, out: Path) -> Quantized:
    """The stage, in a process of its own."""
    parents = {"model": given.model, "dataset": given.data}
    began = time.perf_counter()
    done = run_in_child("quantize", parents, given.config, out, out.with_suffix(".log"), lambda _: None)
    seconds = time.perf_counter() - began
    modules = json.loads((out / "gptq_layers.json").read_text())
    losses = [module["loss"] for module in modules if module["loss"] is not None]
    return Quantized(seconds, done.peak_bytes, losses)


def theirs(tool: str, given: Input, out: Path, home: Path) -> Quantized:
    """GPTQModel's API, with the threads that our stages have."""
    config = given.config
    batch, dtype = (1, "default") if tool == README else (ROWS_AT_ONCE, str(computed(config)))
    words: list[str | Path] = [sys.executable, "-W", "ignore", "-c", THEIRS]
    words += [given.model.path, given.rows, out]
    words += [str(config.bits), str(config.group_size), str(batch), dtype]
    workers = str(max(2, os.cpu_count() or 2))
    environment = {**child_environment(), "HOME": str(home), "GPTQMODEL_CPU_WORKERS": workers}
    began = time.perf_counter()
    done = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{tool} failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    peak, losses = json.loads((out / "measured.json").read_text())
    return Quantized(seconds, peak, losses)


def computed(config: GptqConfig) -> str:
    """The type in which the rows pass through the layers in our stage, on a CPU."""
    return "float32" if config.compute_dtype == "float32" else config.dtype


def show(report: Report, title: str, found: Mapping[str, list[Quantized]]) -> None:
    """A row for each tool; behind where it is faster than ours."""
    medians = {tool: statistics.median(run.seconds for run in runs) for tool, runs in found.items()}
    for tool, runs in found.items():
        report.row(
            title,
            {
                "tool": tool,
                "seconds": medians[tool],
                "seconds / tuneline's": medians[tool] / medians[OURS],
                "fastest, slowest": [min(run.seconds for run in runs), max(run.seconds for run in runs)],
                "peak memory (GB)": statistics.median(run.peak for run in runs) / 1e9,
                "mean loss of a module": statistics.mean(runs[0].losses),
                "modules": len(runs[0].losses),
            },
            behind=medians[tool] < medians[OURS],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SOURCES, default="135m")
    parser.add_argument("--rows", type=int, default=64, help="of calibration")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians count")
    given = parser.parse_args()
    recipe = load("demo", SOURCES[given.model])
    (demo,) = (config for config in recipe.quantize if isinstance(config, GptqConfig))
    changes = {"calibration_rows": given.rows, "compute_dtype": measure().compute_dtype}
    packages = ("gptqmodel", "torch", "transformers")
    with Report("gptq_peers", *packages) as report, tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Path(name) / "home"
        home.mkdir()
        config = demo.model_copy(update=changes)
        small = make(
            load("demo", SOURCES["pico"]), config.model_copy(update={"calibration_rows": 2}), folder / "pico"
        )
        theirs(README, small, folder / "compiled", home)
        inputs = make(recipe, config, folder / "input")
        found: dict[str, list[Quantized]] = {tool: [] for tool in TOOLS}
        for number in range(given.rounds):
            for tool in TOOLS:
                out = folder / f"{tool}-{number}"
                if tool == OURS:
                    out.mkdir()
                    found[tool].append(ours(inputs, out))
                else:
                    found[tool].append(theirs(tool, inputs, out, home))
        bits = f"{config.bits} bits, groups of {config.group_size}"
        title = f"{given.model}, {given.rows} rows, {bits}; ours computes in {computed(config)}"
        show(report, title, found)


if __name__ == "__main__":
    main()
