"""Write a planned merge from disk to disk: each of several threads has a tensor of its own.

They share nothing but the plan, and each tensor has its place in its file before it is computed, so the bytes
are the same in whatever order the threads come to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from serving.cores import usable_threads
from stages.backends.merge.compute import MergedTensors
from stages.backends.merge.plan import MergePlan, Output
from stages.backends.merge.unfinished import UnfinishedMerge
from stages.backends.safetensors import FileLayout, as_bytes, write_all
from stages.contract import progress

log = logging.getLogger("tuneline.merge")

FEWEST, MOST = 2, 8
"""Threads: one alone would wait for the disk, and more than these for each other's memory."""


def write_tensors(
    plan: MergePlan, files: list[FileLayout], tensors: MergedTensors, merge: UnfinishedMerge
) -> float:
    """Finish what is not finished of `files`; returns the largest absolute value in all of them.

    Of several tensors that are refused, the first in the files' order is reported.
    """
    outputs = {output.spec.name: output for output in plan.outputs}
    known = {file.name: merge.finished(file) for file in files}
    if there := sum(largest is not None for largest in known.values()):
        log.info("%d of %d files are there from an earlier attempt", there, len(files))
    told = _Told(len(outputs))
    with _one_thread_each(), ThreadPoolExecutor(min(max(usable_threads(), FEWEST), MOST)) as pool:
        try:
            tasks = {
                file.name: _begun(file, outputs, tensors, merge, pool)
                for file in files
                if known[file.name] is None
            }
            return max(_ended(file, known[file.name], tasks, merge, told) for file in files)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _begun(
    file: FileLayout,
    outputs: dict[str, Output],
    tensors: MergedTensors,
    merge: UnfinishedMerge,
    pool: ThreadPoolExecutor,
) -> list[Future[float]]:
    path = merge.begin(file)
    return [
        pool.submit(_write, path, file.starts[spec.name], outputs[spec.name], tensors) for spec in file.specs
    ]


def _ended(
    file: FileLayout,
    known: float | None,
    tasks: dict[str, list[Future[float]]],
    merge: UnfinishedMerge,
    told: _Told,
) -> float:
    """Wait until `file` is finished; returns its largest absolute value."""
    if known is not None:
        told.skipped(len(file.specs))
        return known
    largest = 0.0
    for spec, task in zip(file.specs, tasks[file.name], strict=True):
        largest = max(largest, task.result())
        told.written(spec.bytes)
    merge.finish(file, largest)
    return largest


def _write(path: Path, start: int, output: Output, tensors: MergedTensors) -> float:
    """Write one tensor at its place; returns its largest absolute value."""
    largest = 0.0
    with path.open("r+b", buffering=0) as stream:
        stream.seek(start)
        for piece, reach in tensors.pieces(output):
            write_all(stream, as_bytes(piece))
            largest = max(largest, reach)
        written = stream.tell() - start
    if written != output.spec.bytes:
        raise ValueError(f"{output.spec.name}: announced {output.spec.bytes} bytes, got {written}")
    return largest


class _Told:
    """How far it is, as those who watch are told."""

    def __init__(self, total: int) -> None:
        self._done, self._total, self._bytes = 0, total, 0
        self._start = time.monotonic()

    def skipped(self, tensors: int) -> None:
        self._done += tensors

    def written(self, nbytes: int) -> None:
        self._done += 1
        self._bytes += nbytes
        rate = self._bytes / 1e6 / max(time.monotonic() - self._start, 1e-6)
        progress(self._done, self._total, "tensors", megabytes_per_second=rate)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """A thread that computes a tensor gets no others to help it: they have tensors of their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
