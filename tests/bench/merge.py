"""Time and memory of a merge beside `cp` and PEFT's merge_and_unload + save: `python -m tests.bench.merge`.

Random checkpoints of Llama's shape and an adapter on all linear layers. Each merge runs in a process of its
own, in turns, with the input's pages dropped from memory before; the tables give medians. `--mergekit` and
`--axolotl` name interpreters that have these, to be measured as well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.bench.results import ROOT, Report

SIZES = {"0.5B": (2048, 9), "1B": (2048, 21), "3B": (3072, 26)}
"""Width and layers; the MLP is 2.75 times as wide, 32,000 words, heads of 64, nothing tied."""
VOCABULARY = 32000
OURS = """
from stages.contract import Parent
from stages.merge import MergeConfig, merge
out.mkdir()
role = lambda kind, path: Parent(id="0" * 64, kind=kind, path=path)
merge({"base": role("base", base), "adapter": role("adapter", adapter)}, MergeConfig(dtype=dtype), out)
"""
PEFT = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out, max_shard_size="2GB")
"""
MERGEKIT = """
model = {"model": f"{base}+{adapter}"}
config = MergeConfiguration.model_validate(
    {"merge_method": "task_arithmetic", "base_model": str(base), "dtype": dtype,
     "models": [model | {"parameters": {"weight": 1.0}}]}
)
cache = str(out) + ".cache"
options = MergeOptions(lora_merge_cache=cache, copy_tokenizer=False, out_shard_size=2_000_000_000)
run_merge(config, str(out), options)
"""
AXOLOTL = """
merge_lora_sharded_efficient(
    base_model_path=base, lora_adapter_path=adapter, output_path=out, safe_tensors=True, device="cpu"
)
"""
# VmHWM, since ru_maxrss of a started process begins at the size of the one that started it
FRAME = """
import sys, time
from pathlib import Path
base, adapter, out = map(Path, sys.argv[1:4])
dtype = sys.argv[4]
{imports}
def peak(): return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
start, imported = time.perf_counter(), peak()
{body}
print("measured", time.perf_counter() - start, peak(), imported)
"""
IMPORTS = {
    "tuneline": "import stages.backends.merge.merge",
    "peft": "import peft, torch; from transformers import AutoModelForCausalLM",
    "mergekit": "from mergekit.config import MergeConfiguration\n"
    "from mergekit.merge import MergeOptions, run_merge",
    "axolotl": "from axolotl.cli.utils.lora_merge import merge_lora_sharded_efficient",
}
BODIES = {"tuneline": OURS, "peft": PEFT, "mergekit": MERGEKIT, "axolotl": AXOLOTL}


@dataclass(frozen=True)
class Measured:
    """Seconds of the merge, and of its process with imports; bytes of the peak, and after the imports."""

    seconds: float
    whole: float
    peak: float
    imported: float


def drop(folder: Path) -> bool:
    """Have the system forget the pages of the files in `folder`; whether it did, by a few looks."""
    os.sync()
    cold = True
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            size = file.stat().st_size
            for place in range(0, size, max(size // 8, 1)):
                try:
                    os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT)
                    cold = False
                except BlockingIOError:  # it is not in memory
                    pass
        except OSError:
            cold = False
        finally:
            os.close(descriptor)
    return cold


def copied(base: Path, out: Path) -> Measured:
    """What it takes to copy the base's files."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", base, out], check=True)
    took = time.perf_counter() - started
    return Measured(took, took, 0, 0)


def merged(who: str, python: str, base: Path, adapter: Path, out: Path, dtype: str) -> Measured:
    """What a merge takes in a fresh process of the interpreter `python`."""
    code = FRAME.format(imports=IMPORTS[who], body=BODIES[who])
    started = time.perf_counter()
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code, str(base), str(adapter), str(out), dtype],
        capture_output=True,
        text=True,
        cwd=ROOT if who == "tuneline" else base,
        check=False,
    )
    whole = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{who} failed:\n{done.stderr[-2000:]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("measured "))
    seconds, peak, imported = map(float, line.split()[1:])
    return Measured(seconds, whole, peak, imported)


def differing(ours: Path, theirs: Path) -> tuple[int, int]:
    """Tensors that differ in any bit, and tensors compared."""
    from stages.backends.safetensors import model_files

    a, b = model_files(ours), model_files(theirs)
    names = sorted({*a, *b})
    return sum(not (n in a and n in b and torch.equal(a.read(n), b.read(n))) for n in names), len(names)


@dataclass(frozen=True)
class Compared:
    """Medians of each tool in one run, over `nbytes` that were `cold`; tensors equal to Tuneline's."""

    nbytes: int
    cold: bool
    medians: Mapping[str, Measured]
    equal: Mapping[str, str]


def compare(size: str, dtype: str, rank: int, options: argparse.Namespace) -> Compared:
    """Each of the `options.pythons` in turns, and `cp`."""
    from tests.stages.backends.merge.lora_models import save_synthetic

    hidden, layers = SIZES[size]
    rounds: dict[str, list[Measured]] = {who: [] for who in ("cp", *options.pythons)}
    cold = True
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        base, adapter = folder / "base", folder / "adapter"
        save_synthetic(base, adapter, hidden, layers, rank, VOCABULARY, getattr(torch, dtype))
        nbytes = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        different: dict[str, str] = {}
        for number in range(options.rounds):
            for who in rounds:
                out = folder / who
                cold &= drop(base)
                if who == "cp":
                    rounds[who].append(copied(base, out))
                else:
                    rounds[who].append(merged(who, options.pythons[who], base, adapter, out, dtype))
                if number == 0 and who not in ("cp", "tuneline"):
                    wrong, compared = differing(folder / "tuneline", out)
                    different[who] = f"{compared - wrong} of {compared}"
                if number or who != "tuneline":  # with which the others are compared
                    shutil.rmtree(out)
            shutil.rmtree(folder / "tuneline", ignore_errors=True)
    medians = {
        who: Measured(*(statistics.median(values) for values in zip(*map(astuple, rows), strict=True)))
        for who, rows in rounds.items()
    }
    return Compared(nbytes, cold, medians, different)


def astuple(found: Measured) -> tuple[float, ...]:
    return (found.seconds, found.whole, found.peak, found.imported)


def show(report: Report, title: str, compared: Compared) -> None:
    """A row for each tool; behind where another one is faster, or a copy takes under 1 / 1.3 of the time."""
    ours = compared.medians["tuneline"].seconds
    for who, found in compared.medians.items():
        ratio = found.seconds / ours
        report.row(
            title,
            {
                "tool": who,
                "size (GB)": compared.nbytes / 1e9,
                "seconds": found.seconds,
                "seconds / tuneline's": ratio,
                "MB/s": compared.nbytes / 1e6 / found.seconds,
                "with imports (s)": found.whole,
                "peak memory (GB)": found.peak / 1e9 or None,
                "of it imports (GB)": found.imported / 1e9 or None,
                "tensors equal to tuneline's": compared.equal.get(who),
                "input": "dropped from memory" if compared.cold else "maybe in memory",
            },
            behind=ratio < (1 / 1.3 if who == "cp" else 1),
        )


def version_of(package: str, python: str) -> str:
    """In another interpreter."""
    code = f"import importlib.metadata as m; print('{package}', m.version('{package}'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["0.5B", "1B"])
    parser.add_argument("--dtype", nargs="+", choices=["float16", "bfloat16"], default=["float16"])
    parser.add_argument("--rank", nargs="+", type=int, default=[64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--mergekit", metavar="PYTHON", help="an interpreter that has mergekit")
    parser.add_argument("--axolotl", metavar="PYTHON", help="an interpreter that has axolotl")
    options = parser.parse_args()
    others = {who: python for who in ("mergekit", "axolotl") if (python := getattr(options, who))}
    options.pythons = {"tuneline": sys.executable, "peft": sys.executable, **others}
    equal = []
    with Report("merge", "torch", "transformers", "peft", "safetensors") as report:
        for dtype in options.dtype:
            for rank in options.rank:
                title = f"Merge in {dtype}, rank {rank}, median of {options.rounds}"
                for size in options.size:
                    compared = compare(size, dtype, rank, options)
                    show(report, title, compared)
                    equal.append(compared.equal["peft"])
                if others:
                    report.note(title, ", ".join(version_of(*other) for other in others.items()))
                if len(options.size) > 1:
                    report.plot(title, "size (GB)", "seconds", "tool")
    sys.exit(any(len(set(found.split(" of "))) > 1 for found in equal))


if __name__ == "__main__":
    main()
