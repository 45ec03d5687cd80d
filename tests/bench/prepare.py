"""Rows a second and peak memory of `prepare` on chitchat-dataset (40 MB of JSON, MIT).

    pip install chitchat-dataset==0.9.0
    python -m tests.bench.prepare [--copies N]

The tokenizer is SmolLM2's. `--copies` makes the
source N times as long (the copies differ in a word a turn, so that none is a duplicate): peak memory
has to stay nearly flat.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from stages.config.base import BaseConfig
from stages.config.prepare import PrepareConfig
from stages.contract import Parent
from stages.prepare import prepare
from stages.resolve import resolve

# 3,150 of the 7,168 conversations hold one turn, which nobody answered.
SETTINGS = {"max_length": 2048, "max_rejected": 0.6}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        resolve({}, BaseConfig(source="pico:0"), base)
        if arguments.copies == 1:
            source = "package:chitchat-dataset/chitchat_dataset/dataset.json"
        else:
            source = f"path:{_multiplied(arguments.copies, Path(folder) / 'chitchat.json')}"
        # A process of its own, so that nothing but the stage counts as its memory.
        child = multiprocessing.get_context("spawn").Process(
            target=_measure, args=(base, source, Path(folder) / "out")
        )
        child.start()
        child.join()
        raise SystemExit(child.exitcode)


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


def _measure(base: Path, source: str, out: Path) -> None:
    from stages.backends.chat import encode_with_mask, load_tokenizer

    probe = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}]
    encode_with_mask(load_tokenizer(base), probe)
    before = _peak_mib()
    parents = {"base": Parent(id="bench", kind="base", path=base)}
    started, busy = time.perf_counter(), time.process_time()
    metrics = prepare(parents, PrepareConfig(source=source, **SETTINGS), out).metrics  # type: ignore[arg-type]
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    rows = metrics["rows"]["read"]
    tokens = sum(split["tokens"] for split in metrics["splits"].values())
    print(json.dumps({key: metrics[key] for key in ("format", "rows", "rejected", "dropped", "splits")}))
    print(
        f"{rows:,} rows in {seconds:.1f} s ({busy:.1f} s of CPU): {rows / seconds:,.0f} rows/s, "
        f"{tokens / seconds:,.0f} accepted tokens/s; peak memory {_peak_mib():,.0f} MiB, "
        f"of which {before:,.0f} MiB before the first row (libraries and tokenizer)"
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
