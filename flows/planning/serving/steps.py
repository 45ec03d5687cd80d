"""How long the steps of an engine take: llama.cpp's timed on this machine and kept, vLLM's by formula."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.run.child import child_environment
from registry.artifacts import digest
from stages.arithmetic import identity
from stages.contract import toolchain
from stages.errors import StageError
from stages.model_shape import ModelShape

SECONDS = 8.0
"""Of the time box in which steps are timed, without loading the model."""
DISTURBED_KEPT = 3600.0
"""Seconds for which a timing is kept that other work disturbed; then it is taken again."""
VERSION = 1
_TREE = Path(__file__).resolve().parents[3]


class Steps(Protocol):
    """Seconds of a pass of `rows` sequences with `each` tokens after `context` tokens of all together."""

    @property
    def mixes(self) -> bool:
        """Whether answers with different adapters are computed in one pass."""
        ...

    def seconds(self, rows: int, each: int, context: int) -> float: ...


class LlamaSteps(BaseModel):
    """As `serving.llama_cpp.step_times` has timed them, on this machine."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[tuple[int, float], ...] = Field(min_length=1)
    prompt: tuple[tuple[int, float], ...] = ()
    row_context: float = Field(ge=0)
    prompt_context: float = Field(ge=0)
    disturbed: bool = False

    @property
    def mixes(self) -> bool:
        return False

    def seconds(self, rows: int, each: int, context: int) -> float:
        if each == 1:
            return _between(self.rows, rows) + context * self.row_context
        tokens = rows * each
        inside = self.prompt_context * tokens * each / 2
        timed = _between(self.prompt or self.rows, tokens)
        return timed + max(0.0, self.prompt_context * context * each - inside)


@dataclass(frozen=True)
class Gpu:
    """Bytes of memory, bytes per second from it and 16-bit operations per second, of its data sheet."""

    memory: int
    bandwidth: float
    operations: float


GPUS = {
    "T4": Gpu(16 << 30, 320e9, 65e12),
    "L4": Gpu(24 << 30, 300e9, 121e12),
    "A10": Gpu(24 << 30, 600e9, 125e12),
    "L40S": Gpu(48 << 30, 864e9, 362e12),
    "A100-40GB": Gpu(40 << 30, 1555e9, 312e12),
    "A100-80GB": Gpu(80 << 30, 2039e9, 312e12),
    "H100": Gpu(80 << 30, 3350e9, 989e12),
    "H200": Gpu(141 << 30, 4800e9, 989e12),
}
"""NVIDIA's data sheets; A100 and H100 as SXM, operations without sparsity."""


@dataclass(frozen=True)
class GpuSteps:
    """The longer of reading weights and cache once and computing all products: a lower limit."""

    shape: ModelShape
    weights: int
    gpu: Gpu

    @property
    def mixes(self) -> bool:
        return True

    def seconds(self, rows: int, each: int, context: int) -> float:
        shape, tokens = self.shape, rows * each
        cache = 4 * shape.layers * shape.kv_heads * shape.head_size * (context + tokens)
        products = 2 * (shape.linear_parameters * tokens + shape.vocabulary * shape.hidden * rows)
        return max((self.weights + cache) / self.gpu.bandwidth, products / self.gpu.operations)


def llama_steps(model: Path, sequences: int, rank: int, threads: int | None, cache: Path) -> LlamaSteps:
    """Of the GGUF file `model`; timed in a process of its own unless `cache` has it for such a file.

    Raises `StageError` where that fails, as without llama.cpp.
    """
    status = model.stat()
    tools = toolchain(("llama-cpp-python",))
    name = [identity()[0], str(model.resolve()), status.st_size, status.st_mtime_ns, tools, VERSION]
    file = cache / f"steps-{digest([*name, sequences, rank, threads or 0])[:20]}.json"
    with contextlib.suppress(OSError, ValidationError):
        kept = LlamaSteps.model_validate_json(file.read_text("utf-8"))
        if not kept.disturbed or time.time() - file.stat().st_mtime < DISTURBED_KEPT:
            return kept
    line = _measured(model, sequences, rank, threads)
    steps = LlamaSteps.model_validate_json(line)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.write_text(line + "\n", "utf-8")
        draft.replace(file)
    return steps


def _measured(model: Path, sequences: int, rank: int, threads: int | None) -> str:
    options = {"--sequences": sequences, "--rank": rank, "--seconds": SECONDS}
    if threads is not None:
        options["--threads"] = threads
    given = [part for option, value in options.items() for part in (option, str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "serving.llama_cpp.step_times", str(model.resolve()), *given],
        cwd=_TREE, env=child_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    try:
        json.loads(lines[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise StageError(f"{model}: the steps of llama.cpp could not be timed: {said}") from None
    return lines[-1]


def _between(points: Sequence[tuple[int, float]], tokens: int) -> float:
    """On the line between two timed sizes; beyond them as the nearest two say, from one in proportion."""
    if len(points) == 1:
        ((count, seconds),) = points
        return seconds * max(1.0, tokens / count)
    place = next((i for i, (count, _) in enumerate(points) if count >= tokens), len(points) - 1)
    (few, short), (many, long) = points[max(0, place - 1)], points[max(1, place)]
    if tokens < few:
        return short
    return max(short, short + (long - short) * (tokens - few) / (many - few))
