"""Bytes of an exported directory, flipped one at a time: `python -m tests.reliability.exports`.

Every byte of the documents and of the signature, and 1,000 random ones of the large file; `--each 50` takes
50 random bytes of each document instead. Prints one JSON document; exits with 1 if `verify` missed any.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from flows.exchange.artifact_export import export
from flows.exchange.export_check import verify_directory
from registry import Registry
from registry.channels import signing
from tests.flows.lineages import family

SMALL = (
    "README.md", "gate-decisions.json", "lineage.json", "model.sig", "sbom.cdx.json", "tuneline-facts.json",
    "tuneline-manifest.json",
)  # fmt: skip
LARGE = "model.gguf"


def flip(path: Path, at: int) -> None:
    """Invert one bit of the byte at `at`, which differs from byte to byte so that every bit has its turn."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)


def places(directory: Path, *, each: int | None, large: int, seed: int = 0) -> list[tuple[str, int]]:
    """`each` random bytes of each small file (None: all of them) and `large` of the large one."""
    choose = random.Random(seed)
    found = []
    for name in SMALL:
        size = (directory / name).stat().st_size
        found += [(name, at) for at in (range(size) if each is None else choose.sample(range(size), each))]
    size = (directory / LARGE).stat().st_size
    return found + [(LARGE, at) for at in choose.sample(range(size), large)]


def missed(directory: Path, public_key: Path, chosen: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Flip each of these bytes in turn and verify; those that were not found. All is as before at the end."""
    unseen = []
    for name, at in chosen:
        original = (directory / name).read_bytes()
        try:
            flip(directory / name, at)
            if not verify_directory(directory, public_key).problems:
                unseen.append((name, at))
        finally:
            (directory / name).write_bytes(original)
    return unseen


def main() -> int:
    """Run the trial and print its figures; 1 when anything was missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--each", type=int, help="random bytes of each small file (default: every byte)")
    arguments.add_argument("--large", type=int, default=1000, help="random bytes of the large file")
    arguments.add_argument("--processes", type=int, default=2)
    chosen = arguments.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(chosen.processes) as pool:
        key = signing.key_path(Path(folder), None)
        with Registry.open(Path(folder) / "home") as registry:
            made = family(registry, random.Random(7).randbytes(1_000_000))
            out = export(registry, made["gguf"].id, Path(folder) / "model", key).out
        trials = places(out, each=chosen.each, large=chosen.large)
        copies = [Path(shutil.copytree(out, Path(folder) / f"copy-{i}")) for i in range(chosen.processes)]
        parts = [
            pool.submit(missed, copy, signing.public_path(key), trials[i :: len(copies)])
            for i, copy in enumerate(copies)
        ]
        unseen = [place for part in parts for place in part.result()]
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"flipped": len(trials), "missed": unseen, "seconds": seconds}, indent=2))
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
