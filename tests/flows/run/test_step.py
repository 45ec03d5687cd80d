"""Runs that want the same result at once: one makes it, the others wait; whoever dies is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stages.contract import StageConfig
from tests.seconds import seconds

ROOT = Path(__file__).resolve().parents[3]
STAGE = """
    import pathlib
    from stages.contract import Facts, Parents, StageConfig, progress
    VERSION, TOOLS, RELATIONS = 1, (), {}

    class Config(StageConfig):
        gate: str

    def probe(parents: Parents, config: Config, out: pathlib.Path) -> Facts:
        progress(0, 1, "results")
        pathlib.Path(config.gate).read_text()  # a named pipe: until the test lets it go on
        (out / "file").write_text("made")
        return Facts(kind="dataset")
"""
RUN = """
import json, sys
from pathlib import Path
from flows.run.progress_view import ProgressView
from flows.run.step import Run
from registry import Registry
from tests.flows.run.test_step import Probe
home, gate, name = sys.argv[1:]
with Registry.open(Path(home)) as registry, ProgressView() as view:
    run = Run(registry, view, Path(home) / name)
    try:
        made = run.step("probe", Probe(gate=gate), "work")
    finally:
        print(json.dumps([(row.state, row.note, row.artifact_id) for row in run.rows]))
"""


class Probe(StageConfig):
    gate: str


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """What the stage waits at; writing to it lets one stage on."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


@pytest.fixture
def start(tmp_path: Path, gate: Path) -> Iterator[Start]:
    """Starts a run of that one step, in a process of its own."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "probe.py").write_text(textwrap.dedent(STAGE))
    (folder / "sitecustomize.py").write_text(f"import stages\nstages.__path__.append({str(folder)!r})\n")
    path = os.pathsep.join([str(folder), str(ROOT)])
    running: list[subprocess.Popen[str]] = []

    def begin(**environment: str) -> subprocess.Popen[str]:
        name = f"run{len(running)}"
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path / "home"), str(gate), name],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )  # fmt: skip
        running.append(process)
        return process

    yield begin
    for process in running:
        with process:
            process.kill()


def heard(run: subprocess.Popen[str], words: str) -> None:
    """Wait until the run says so."""
    assert run.stderr is not None
    lines = []
    for line in run.stderr:
        lines.append(line)
        if words in line:
            return
    raise AssertionError(f"{words!r} was not said: {''.join(lines)}")


def ended(run: subprocess.Popen[str]) -> tuple[str, str, str | None]:
    """(state, note, artifact) of the step, once the run has ended."""
    out, _ = run.communicate(timeout=seconds(60))
    ((state, note, artifact),) = json.loads(out)
    return state, note, artifact


def test_who_dies_at_work_is_replaced_and_the_others_take_what_was_made(start: Start, gate: Path) -> None:
    first = start()
    heard(first, "work: 0/1 results")
    others = [start() for _ in range(3)]
    for run in others:
        heard(run, f"work: waiting: pid {first.pid} on host ")
    stages = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    first.wait()
    _, alive = psutil.wait_procs(stages, timeout=seconds(60))
    assert not alive
    gate.write_text("go on")  # opens once the next stage is there
    states, notes, artifacts = zip(*map(ended, others), strict=True)
    assert sorted(states) == ["ran", "reused", "reused"]
    assert len(set(artifacts)) == 1
    for state, note in zip(states, notes, strict=True):
        assert (state == "reused") == note.startswith("waited "), note


def test_patience_has_a_limit(start: Start, gate: Path) -> None:
    first = start()
    heard(first, "work: 0/1 results")
    state, note, _ = ended(start(TUNELINE_WAIT_SECONDS="0"))
    assert state == "failed"
    assert f"is being worked on by pid {first.pid} on host" in note
    gate.write_text("go on")
    assert ended(first)[0] == "ran"
