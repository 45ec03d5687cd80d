"""What memory a training takes, by the size of its data: pico, a few steps on rows of so many MB.

    python -m tests.bench.large_data [--megabytes 100 1000] [--trainings supervised packed pairs]

Each in a process of its own; against the same training on 1 MB. The data are prepared rows of common words.
What the system keeps of files in memory is not counted: it gives that up for others.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from registry.artifacts import BaseReference
from stages.config.base import BaseConfig
from stages.config.train import TrainConfig
from stages.contract import Parent
from stages.resolve import resolve
from tests.bench.results import Report, Row

SMALL = 1
TITLE = "Training on rows of so many MB, 4 steps of pico"
TRAININGS: dict[str, dict[str, Any]] = {
    "supervised": {"batch_size": 4},
    "packed": {"packing": True, "batch_size": 1},
    "pairs": {"method": "orpo", "orpo": {}, "batch_size": 4},
}
QUICK = {
    "lora": {"rank": 4, "dropout": 0},
    "nf4": {"compute_dtype": "float32"},
    "gradient_accumulation": 1,
    "max_length": 512,
    "max_steps": 4,
    "evaluations": 0,
}
TEXT = (
    "what is a good way to the printer when my network does not work and there is no paper left in it "
    "please tell me how long it takes until someone can come over here with another one from the office"
)
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
ROWS = pa.schema([("messages", pa.list_(MESSAGE)), ("rejected", MESSAGE)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100])
    parser.add_argument("--trainings", nargs="+", choices=list(TRAININGS), default=list(TRAININGS))
    given = parser.parse_args()
    with Report("large_data", "torch", "transformers", "trl", "pyarrow") as report:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base"
            base.mkdir()
            reference = resolve({}, BaseConfig(source="pico:0"), base).base
            smallest: dict[str, float] = {}
            for megabytes in (SMALL, *given.megabytes):
                for name in given.trainings:
                    found = _in_a_process(base, reference, megabytes, name)
                    peak = smallest.setdefault(name, float(str(found["peak memory (MB)"])))
                    ratio = float(str(found["peak memory (MB)"])) / peak
                    cells = {"training": name, "MB of text": megabytes, **found, "peak / that of 1 MB": ratio}
                    report.row(TITLE, cells, behind=ratio > 1.5)
        report.plot(TITLE, "MB of text", "peak memory (MB)", "training")


def _in_a_process(base: Path, reference: BaseReference | None, megabytes: int, name: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        dataset, out = Path(folder) / "dataset", Path(folder) / "out"
        for each in (dataset, out):
            each.mkdir()
        with pq.ParquetWriter(dataset / "train.parquet", ROWS, compression="zstd") as writer:
            for rows in _rows(megabytes * 1_000_000, pairs=name == "pairs"):
                writer.write_table(pa.Table.from_pylist(rows, ROWS))
        parents = {
            "base": Parent(id="bench-base", kind="base", path=base, base=reference),
            "dataset": Parent(id="bench-dataset", kind="dataset", path=dataset),
        }
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            return fresh.submit(_measure, parents, TRAININGS[name], out).result()


def _rows(size: int, pairs: bool) -> Iterator[list[dict[str, Any]]]:
    """Rows of about 1 kB, a thousand at a time, until there are so many bytes of text."""
    draw, known, written = random.Random(0), TEXT.split(), 0

    def text(words: int) -> str:
        nonlocal written
        said = " ".join(draw.choices(known, k=draw.randint(words // 2, words)))
        written += len(said)
        return said

    while written < size:
        part: list[dict[str, Any]] = []
        while len(part) < 1000 and written < size:
            asked, answer = text(200), text(100)
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            other = {"role": "assistant", "content": text(100)} if pairs else None
            part.append({"messages": messages, "rejected": other})
        yield part


def _measure(parents: dict[str, Parent], settings: dict[str, Any], out: Path) -> Row:
    from stages.train import train

    started = time.perf_counter()
    made = train(parents, TrainConfig.model_validate({**QUICK, **settings}), out).metrics
    return {
        "rows": made["rows"],
        "seconds": time.perf_counter() - started,
        "peak memory (MB)": _peak(),
    }


def _peak() -> float:
    """MB. `ru_maxrss` of a started process begins at the size of the one that started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
