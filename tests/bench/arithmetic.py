"""float32 against bfloat16 on this CPU, and on one with AVX2 only as far as it can be simulated.

    python -m tests.bench.arithmetic [--stages pico-smoke]

First GFLOP/s of one core in the products of SmolLM2-135M's layers, forward and of the two gradients, and what
`compute_dtype: auto` takes. With `--stages RECIPE` that recipe is run under both types on both machines, each
in a home of its own, and the seconds of its stages stand side by side (a run longer than `--minutes` is cut).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from flows.run.child import child_environment
from stages.arithmetic import MachineSpeed, machine_speed
from stages.model_shape import describe_base
from tests.bench.results import Report
from tests.bench.train import SOURCES

SIMULATED = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
MACHINES: dict[str, dict[str, str]] = {"as it is": {}, "AVX2 only": SIMULATED}
FORMS = ("forward", "grad_input", "grad_weight")
TYPES = ("float32", "bfloat16")
PRODUCTS = "Products of SmolLM2-135M's layers, one core"


def layers() -> dict[str, tuple[int, int]]:
    """Name → inputs and outputs of the products of the 135M model; equal ones once."""
    shape = describe_base(SOURCES["135m"])
    found = {**shape.linear_shapes(), "head": (shape.hidden, shape.vocabulary)}
    return {name: widths for name, widths in found.items() if name not in ("v_proj", "o_proj", "up_proj")}


def products(report: Report) -> None:
    """A row for each layer, form and machine; of the head as much as a run measures."""
    taken: dict[str, set[str]] = {}
    for name, (inputs, outputs) in layers().items():
        for machine, set_ in MACHINES.items():
            speed = measured(inputs, outputs, set_)
            taken.setdefault(machine, set()).add(speed.compute_dtype)
            for form in FORMS:
                one, two = (getattr(getattr(speed, type_), form) / 1e9 for type_ in TYPES)
                what = {
                    "layer": f"{name} {speed.product[1]}→{speed.product[2]}",
                    "product": form,
                    "machine": machine,
                }
                rates = {"float32 (GFLOP/s)": one, "bfloat16 (GFLOP/s)": two}
                report.row(PRODUCTS, {**what, **rates, "bfloat16 / float32": two / one})
    auto = "; ".join(f"{machine}: {' or '.join(sorted(types))}" for machine, types in taken.items())
    report.note(PRODUCTS, f"`compute_dtype: auto` takes: {auto}.")


def measured(inputs: int, outputs: int, set_: dict[str, str]) -> MachineSpeed:
    """As a run measures it, on one of the two machines."""
    return machine_speed(inputs, outputs, None, {**child_environment(), **set_})


def stages(report: Report, recipe: str, minutes: float) -> None:
    """Seconds of each stage under both types on both machines."""
    columns = {
        (machine, type_): run(recipe, type_, set_, minutes)
        for machine, set_ in MACHINES.items()
        for type_ in TYPES
    }
    names = list(dict.fromkeys(name for found in columns.values() for name in found))
    title = f"Seconds of the stages of {recipe}"
    for name in names:
        cells = {f"{type_}, {machine}": found.get(name) for (machine, type_), found in columns.items()}
        report.row(title, {"stage": name, **cells})
    whole = {f"{type_}, {machine}": sum(found.values()) for (machine, type_), found in columns.items()}
    report.row(title, {"stage": "whole", **whole})


def run(recipe: str, type_: str, set_: dict[str, str], minutes: float) -> dict[str, float]:
    """Label → seconds of the stages that ran; those before the end of the time where it was cut."""
    words = [f"train.nf4.compute_dtype={type_}", f"evaluate.compute_dtype={type_}"]
    with tempfile.TemporaryDirectory() as home:
        command = [Path(sys.executable).with_name("tuneline"), "run", recipe]
        command += [part for word in words for part in ("--set", word)]
        environment = {**os.environ, **set_, "TUNELINE_HOME": home}
        try:
            done = subprocess.run(
                [*command, "--json"], env=environment, capture_output=True, text=True, timeout=60 * minutes
            )
        except subprocess.TimeoutExpired:
            print(f"{recipe} in {type_} with {set_ or 'nothing set'}: cut after {minutes:g} minutes")
            return {}
        report = json.loads(done.stdout)
        for endpoint in json.loads(
            subprocess.run(
                [command[0], "endpoints", "ls", "--json"], env=environment, capture_output=True, check=True
            ).stdout
        ):
            subprocess.run([command[0], "endpoints", "stop", endpoint["id"]], env=environment, check=True)
        return {row["label"]: row["seconds"] for row in report["stages"] if row["state"] == "ran"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--stages", metavar="RECIPE", help="run it under both types on both machines")
    arguments.add_argument("--minutes", type=float, default=60, help="at most for one run of it")
    given = arguments.parse_args()
    with Report("arithmetic", "torch") as report:
        products(report)
        if given.stages:
            stages(report, given.stages, given.minutes)


if __name__ == "__main__":
    main()
