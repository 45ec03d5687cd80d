"""Rows a second and peak memory of `prepare` on chitchat-dataset (40 MB of JSON, MIT).

    pip install chitchat-dataset==0.9.0
    python -m tests.bench.prepare [--copies 1 3]

The tokenizer is SmolLM2's. `--copies` makes the source so many times as long (the copies differ in a word a
turn, so that none is a duplicate): peak memory has to stay nearly flat. Each is a process of its own, so that
nothing but the stage counts as its memory.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from stages.config.base import BaseConfig
from stages.config.prepare import PrepareConfig
from stages.contract import Parent
from stages.prepare import prepare
from stages.resolve import resolve
from tests.bench.results import Report, Row

# 3,150 of the 7,168 conversations hold one turn, which nobody answered.
SETTINGS = {"max_length": 2048, "max_rejected": 0.6}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 3])
    copies, title = parser.parse_args().copies, "Rows of chitchat-dataset, 40 MB of JSON"
    packages = ("chitchat-dataset", "transformers", "tokenizers")
    with Report("prepare", *packages) as report, tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        resolve({}, BaseConfig(source="pico:0"), base)
        for many in copies:
            source = "package:chitchat-dataset/chitchat_dataset/dataset.json"
            if many > 1:
                source = f"path:{_multiplied(many, Path(folder) / 'chitchat.json')}"
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                found = fresh.submit(_measure, base, source, Path(folder) / f"out-{many}").result()
            report.row(title, {"copies": many, "stage": "prepare", **found})
        if len(copies) > 1:
            report.plot(title, "copies", "peak memory (MB)", "stage")


def _multiplied(copies: int, path: Path) -> Path:
    packaged = importlib.metadata.distribution("chitchat-dataset").locate_file(
        "chitchat_dataset/dataset.json"
    )
    conversations = json.loads(Path(str(packaged)).read_text(encoding="utf-8"))
    with path.open("w", encoding="utf-8") as stream:
        stream.write("{")
        for copy in range(copies):
            for number, (key, conversation) in enumerate(conversations.items()):
                marked = [
                    [{**u, "text": f"{u['text']} v{copy}"} for u in turn] for turn in conversation["messages"]
                ]
                stream.write("," if copy or number else "")
                stream.write(f"{json.dumps(f'{key}-{copy}')}:{json.dumps({'messages': marked})}")
        stream.write("}")
    return path


def _measure(base: Path, source: str, out: Path) -> Row:
    from stages.backends.chat import encode_with_mask, load_tokenizer

    probe = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}]
    encode_with_mask(load_tokenizer(base), probe)
    before = _peak()
    parents = {"base": Parent(id="bench", kind="base", path=base)}
    started, busy = time.perf_counter(), time.process_time()
    metrics = prepare(parents, PrepareConfig(source=source, **SETTINGS), out).metrics  # type: ignore[arg-type]
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    rows = metrics["rows"]["read"]
    tokens = sum(split["tokens"] for split in metrics["splits"].values())
    return {
        "rows": rows,
        "seconds": seconds,
        "CPU (s)": busy,
        "rows/s": rows / seconds,
        "accepted tokens/s": tokens / seconds,
        "peak memory (MB)": _peak(),
        "of it libraries and tokenizer (MB)": before,
    }


def _peak() -> float:
    """MB. `ru_maxrss` of a started process begins at the size of the one that started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
