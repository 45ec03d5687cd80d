"""Hostile and damaged files, each in the limited child: `python -m tests.reliability.foreign`.

Every one has to be refused with its own reason, within the seconds given. On top of these, `--trials` good
files have random bytes changed: whatever becomes of them, the reader answers or refuses, and never breaks or
hangs. Prints one JSON document; exits with 1 where something got through or took too long.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stages.errors import InvalidInput
from stages.untrusted.inspect import inspect
from tests.seconds import seconds
from tests.stages.untrusted.hostile_files import HOSTILE, adapter, gguf, model, with_tokenizer


def hostile(folder: Path, slowest_allowed: float) -> dict[str, Any]:
    wrong, slowest = [], 0.0
    for number, (name, (make, said)) in enumerate(HOSTILE.items()):
        place = make(folder / str(number))
        started = time.monotonic()
        try:
            inspect(place, thorough=True)
            wrong.append(f"{name}: got through")
        except InvalidInput as error:
            if said not in str(error):
                wrong.append(f"{name}: {error}")
        slowest = max(slowest, time.monotonic() - started)
    if slowest > slowest_allowed:
        wrong.append(f"the slowest took {slowest:.1f} s")
    return {"refused": len(HOSTILE) - len(wrong), "slowest_seconds": round(slowest, 2), "wrong": wrong}


def changed(folder: Path, trials: int, seed: int) -> dict[str, Any]:
    chance, wrong, refused = random.Random(seed), [], 0
    for number in range(trials):
        place = folder / f"changed-{number}"
        kind = number % 3
        if kind == 0:
            target = adapter(place) / "adapter_model.safetensors"
        elif kind == 1:
            target = with_tokenizer(model(place), template="{{ messages }}") / chance.choice(
                ("tokenizer.json", "config.json", "model.safetensors", "tokenizer_config.json")
            )
        else:
            place.mkdir()
            target = place / "model.gguf"
            target.write_bytes(gguf())
        raw = bytearray(target.read_bytes())
        for _ in range(chance.choice((1, 1, 4, 16))):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        target.write_bytes(
            bytes(raw[: chance.choice((len(raw), len(raw), chance.randrange(1, len(raw)))) or 1])
        )
        started = time.monotonic()
        try:
            inspect(place, thorough=True)
        except InvalidInput as error:
            refused += 1
            if "cannot be understood" in str(error) or "ended with status" in str(error):
                wrong.append(f"{target.name}, trial {number}: {error}")
        if time.monotonic() - started > seconds(15):
            wrong.append(f"{target.name}, trial {number}: took {time.monotonic() - started:.1f} s")
    return {"changed": trials, "refused": refused, "wrong": wrong}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000, help="good files with bytes changed")
    parser.add_argument("--seconds", type=float, default=30.0, help="that one refusal may take")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "hostile": hostile(Path(folder), given.seconds),
            "random": changed(Path(folder), given.trials, given.seed),
            "largest_child_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        }
    print(json.dumps(report, indent=1))
    return 1 if report["hostile"]["wrong"] or report["random"]["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
