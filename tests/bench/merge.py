"""Time and memory of a merge, beside PEFT's merge_and_unload + save: `python tests/bench/merge.py`.

A synthetic Llama-shaped float16 checkpoint and a rank-64 adapter on all linear layers; each merge runs in a
process of its own, started cold, alternating; the table gives the median of the rounds.
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
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

OURS = """
from stages.contract import Parent
from stages.merge import MergeConfig, merge
out.mkdir()
role = lambda kind, path: Parent(id="0" * 64, kind=kind, path=path)
merge({"base": role("base", base), "adapter": role("adapter", adapter)}, MergeConfig(), out)
"""
THEIRS = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16), adapter)
model.merge_and_unload().save_pretrained(out, max_shard_size="2GB")
"""
# VmHWM, since ru_maxrss of a started process begins at the size of the one that started it
FRAME = """
import sys, time
from pathlib import Path
base, adapter, out = map(Path, sys.argv[1:])
{imports}
def peak(): return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
start, imported = time.perf_counter(), peak()
{body}
print("measured", time.perf_counter() - start, peak(), imported)
"""
IMPORTS = {
    "tuneline": "import stages.backends.merge.merge; from transformers import AutoModelForCausalLM",
    "peft": "import peft, torch; from transformers import AutoModelForCausalLM",
}
BODIES = {"tuneline": OURS, "peft": THEIRS}


def measure(who: str, base: Path, adapter: Path, out: Path) -> tuple[float, float, float]:
    """Seconds (without imports), peak resident bytes, and those after the imports, of a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    code = FRAME.format(imports=IMPORTS[who], body=BODIES[who])
    arguments = [sys.executable, "-W", "ignore", "-c", code, str(base), str(adapter), str(out)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{who} failed:\n{done.stderr[-2000:]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("measured "))
    seconds, peak, imported = map(float, line.split()[1:])
    return seconds, peak, imported


def differing(ours: Path, theirs: Path) -> tuple[int, int]:
    """Tensors that differ in any bit, and tensors compared."""
    from stages.backends.safetensors import model_files

    a, b = model_files(ours), model_files(theirs)
    names = sorted({*a, *b})
    return sum(not (n in a and n in b and torch.equal(a.read(n), b.read(n))) for n in names), len(names)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the float16 checkpoint")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    from tests.stages.backends.merge.lora_models import save_synthetic

    vocab = 32000
    per_layer = 2 * (4 + 3 * 11 / 4) * options.hidden**2
    layers = max(1, round((options.gigabytes * 1e9 - 4 * vocab * options.hidden) / per_layer))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        base, adapter = folder / "base", folder / "adapter"
        save_synthetic(base, adapter, options.hidden, layers, options.rank, vocab)
        started = time.perf_counter()
        results: dict[str, list[tuple[float, float, float]]] = {who: [] for who in BODIES}
        for _ in range(options.rounds):
            for who in BODIES:
                results[who].append(measure(who, base, adapter, folder / who))
        different, compared = differing(folder / "tuneline", folder / "peft")
        size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    seconds, peak, imported = (
        {who: statistics.median(row[i] for row in rows) for who, rows in results.items()} for i in range(3)
    )
    table = Table(
        title=f"Merge of {size / 1e9:.2f} GB float16 ({layers} layers of {options.hidden}), "
        f"rank {options.rank}, median of {options.rounds}, {os.cpu_count()} cores"
    )
    for column in ("", "seconds", "MB/s", "peak GB", "of which imports"):
        table.add_column(column, justify="right")
    for who in BODIES:
        figures = (seconds[who], size / 1e6 / seconds[who], peak[who] / 1e9, imported[who] / 1e9)
        table.add_row(who, *(f"{figure:.3g}" for figure in figures))
    ratios = (seconds["tuneline"] / seconds["peft"], peak["tuneline"] / peak["peft"])
    table.add_row("tuneline / peft", f"{ratios[0]:.2f}", "", f"{ratios[1]:.2f}", "")
    Console(width=100).print(table)
    took = time.perf_counter() - started
    print(f"{compared - different} of {compared} tensors bitwise equal; {took:.0f} s in all")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
