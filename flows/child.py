"""Run a stage in a child process of its own, with its own process group and memory."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stages.contract import Parent
from stages.errors import StageError, StageKilled
from stages.run import resident_peak

GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Execution:
    """How a stage's run went."""

    facts: dict[str, Any]
    seconds: float
    peak_bytes: int
    started: float


class StageFailed(StageError):
    """The stage itself refused or failed; carries the exit code that it asked for."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_in_child(
    stage: str,
    parents: Mapping[str, Parent],
    config: BaseModel,
    out: Path,
    log: Path,
    on_progress: Callable[[dict[str, Any]], None],
) -> Execution:
    """Run `stage` in a child; its output goes to `log`.

    Raises `StageFailed` with the stage's own message, or `StageKilled` if the child died.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    started, ooms = time.time(), _oom_kills()
    with log.open("ab") as output, os.fdopen(read_end, "rb", buffering=0) as reader:
        child = subprocess.Popen(
            [sys.executable, "-m", "stages.run"],
            stdin=subprocess.PIPE, stdout=output, stderr=output,
            pass_fds=[write_end], start_new_session=True, cwd=out, env=_environment(),
        )  # fmt: skip
        os.close(write_end)
        try:
            _send_job(child, stage, parents, config, out, write_end)
            last, peak = _listen(child, reader, on_progress)
            child.wait()
        finally:
            end_group(child)
    peak = max(peak, int(last.get("peak_bytes", 0)))
    if "facts" in last:
        return Execution(last["facts"], time.time() - started, peak, started)
    if "error" in last:
        raise StageFailed(last["error"], int(last["exit_code"]))
    raise StageKilled(_epitaph(stage, child.returncode, peak, _oom_kills() > ooms, log))


def _environment() -> dict[str, str]:
    """The child's environment: this tree importable from anywhere, and threads that wait without spinning.

    With its default, GNU OpenMP is 5 to 14 times slower as soon as another process wants a core.
    """
    tree = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONPATH": f"{tree}{os.pathsep}{inherited}" if inherited else tree,
    }


def _send_job(
    child: subprocess.Popen[bytes],
    stage: str,
    parents: Mapping[str, Parent],
    config: BaseModel,
    out: Path,
    pipe: int,
) -> None:
    job = {
        "stage": stage,
        "parents": {role: parent.model_dump(mode="json") for role, parent in parents.items()},
        "config": config.model_dump(mode="json"),
        "out": str(out),
        "pipe": pipe,
    }
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.flush()


def _listen(
    child: subprocess.Popen[bytes], reader: Any, on_progress: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], int]:
    """Forward progress until the child closes its pipe; return its last word and its peak memory."""
    last: dict[str, Any] = {}
    peak, rest = 0, b""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=0.5):
                peak = max(peak, resident_peak(child.pid))
                if child.poll() is not None:
                    return last, peak
                continue
            chunk = reader.read(65536)
            if not chunk:
                return last, peak
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "progress" in message:
                    on_progress(message["progress"])
                else:
                    last = message


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started; first politely, then not."""
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _oom_kills() -> int:
    """How often the kernel's out-of-memory killer has struck: this machine and this control group."""
    count = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    count += int(line.split()[1])
    return count


def _epitaph(stage: str, status: int, peak: int, out_of_memory: bool, log: Path) -> str:
    gigabytes = f"{peak / 1e9:.1f} GB"
    if status == -signal.SIGKILL and out_of_memory:
        return (
            f"{stage} was killed by the system's out-of-memory killer at {gigabytes}. Free memory, take a "
            f"machine with more, or make batch_size or max_length smaller; `tuneline check` says what "
            "a recipe needs."
        )
    if status < 0:
        name = signal.Signals(-status).name
        return f"{stage} was killed by {name} at {gigabytes}; the last lines of its log may say why: {log}"
    return f"{stage} ended with status {status} and no result; see its log: {log}"
