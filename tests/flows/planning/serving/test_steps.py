"""Times of steps: between the sizes that were timed, by formula, and kept with what disturbed them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from flows.commands.arguments import planning
from flows.planning.serving import steps
from flows.planning.serving.steps import GPUS, Gpu, GpuSteps, LlamaSteps, llama_steps
from stages.errors import StageError
from stages.model_shape import describe_base

TIMED = LlamaSteps(
    rows=((1, 10.0), (4, 16.0)), prompt=((32, 64.0), (512, 1024.0)), row_context=0.5, prompt_context=0.01
)


def test_sizes_lie_on_lines_between_those_that_were_timed() -> None:
    assert [TIMED.seconds(rows, 1, 0) for rows in (1, 2, 4, 6)] == [10, 12, 16, 20]
    assert TIMED.seconds(2, 1, 100) == 12 + 50
    assert TIMED.seconds(1, 32, 0) == 64, "what is in the prompt itself was timed with it"
    assert TIMED.seconds(1, 272, 1000) == pytest.approx(544 + 0.01 * 272 * (1000 - 136))
    assert TIMED.seconds(1, 8, 0) == 64, "fewer tokens than were timed take no less"
    alone = LlamaSteps(rows=((1, 10.0),), row_context=0, prompt_context=0)
    assert (alone.seconds(1, 1, 0), alone.seconds(1, 3, 0)) == (10, 30)


def test_a_gpu_reads_its_weights_or_computes_whichever_takes_longer() -> None:
    shape = describe_base("pico:1")
    gpu = Gpu(1 << 30, 100.0, 1e30)
    assert GpuSteps(shape, 1000, gpu).seconds(1, 1, 0) == (1000 + 4 * 2 * 2 * 64) / 100
    products = 2 * (shape.linear_parameters * 6 + 49152 * 256 * 2)
    assert GpuSteps(shape, 1000, Gpu(1, 1e30, 7.0)).seconds(2, 3, 0) == products / 7


def test_the_command_knows_the_same_gpus() -> None:
    assert tuple(GPUS) == planning.GPUS


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of the measurement, which answers `TIMED`, disturbed by other work at first."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        answer = {**TIMED.model_dump(), "disturbed": len(commands) == 1}
        return subprocess.CompletedProcess(command, 0, stdout=f"a warning\n{json.dumps(answer)}\n")

    monkeypatch.setattr(steps, "identity", lambda: ("0" * 64, "a processor"))
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_steps_are_timed_once_and_again_after_an_hour_where_that_was_disturbed(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    for _ in range(2):
        assert llama_steps(model, 4, 16, None, tmp_path / "cache").disturbed
    assert len(asked) == 1
    (kept,) = (tmp_path / "cache").iterdir()
    os.utime(kept, (time.time() - 3601, time.time() - 3601))
    for _ in range(2):
        assert not llama_steps(model, 4, 16, None, tmp_path / "cache").disturbed
    os.utime(kept, (0, 0))
    assert llama_steps(model, 4, 16, None, tmp_path / "cache") == TIMED
    assert len(asked) == 2
    llama_steps(model, 4, 16, 3, tmp_path / "cache")
    assert asked[-1][-2:] == ["--threads", "3"], "another number of threads is another speed"


def test_a_model_that_cannot_be_timed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nno llama.cpp here\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(StageError, match=r"model.gguf: the steps of llama.cpp .*: no llama.cpp here"):
        steps._measured(tmp_path / "model.gguf", 4, 0, None)
