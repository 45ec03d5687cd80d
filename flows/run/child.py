"""Run a stage in a child process of its own, with its own process group and memory.

Half of a short stage's time is importing libraries, so a `WarmWorker` has done so already.
"""

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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from serving.cores import thread_environment
from stages.contract import Parent, ProgressEvent
from stages.errors import StageError, StageKilled
from stages.run import resident_peak

GRACE_SECONDS = 5.0
_TREE = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class Execution:
    """How a stage's run went."""

    facts: dict[str, Any]
    seconds: float
    peak_bytes: int
    started: datetime


class StageFailed(StageError):
    """The stage itself refused or failed; carries the exit code that it asked for."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WarmWorker:
    """Context manager with one process that imports what most stages need while another stage runs.

    `log`: where it writes until it has a stage.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._waiting: StageProcess | None = None

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self.refill()
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting is not None:
            self._waiting.end()

    def take(self) -> StageProcess | None:
        """The waiting process, which is the caller's from now on; None when it is not there any more."""
        taken, self._waiting = self._waiting, None
        if taken is not None and taken.child.poll() is not None:
            taken.end()
            return None
        return taken

    def refill(self) -> None:
        """Start a process to wait for the next stage."""
        self._waiting = StageProcess(self._log, "--import-ahead")


class StageProcess:
    """A process that takes one job; see `stages.run`."""

    def __init__(self, log: Path, *options: str) -> None:
        read_end, self._write_end = os.pipe()
        self.reader = os.fdopen(read_end, "rb", buffering=0)
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "stages.run", str(self._write_end), *options],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[self._write_end],
                start_new_session=True,
                cwd=_TREE,
                env=child_environment(),
            )
        os.close(self._write_end)

    def send(self, **job: Any) -> None:
        """Give it its job; a process that is gone by now shows when it is listened to."""
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(json.dumps(job).encode() + b"\n")
            self.child.stdin.flush()

    def ended(self) -> bool:
        """Whether it is gone; it stays to be reaped."""
        return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self) -> int:
        """Wait for its end; bytes of its peak resident memory, or of this process's if that was more."""
        _, status, usage = os.wait4(self.child.pid, 0)
        self.child.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_maxrss * 1024

    def end(self) -> None:
        """End the process and whatever it started; first politely, then not."""
        if self.child.stdin is not None:
            with contextlib.suppress(OSError):
                self.child.stdin.close()
        if self.child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.reader.close()


def run_in_child(
    stage: str,
    parents: Mapping[str, Parent],
    config: BaseModel,
    out: Path,
    log: Path,
    on_progress: Callable[[ProgressEvent], None],
    stand_by: WarmWorker | None = None,
) -> Execution:
    """Run `stage` in a child, `stand_by`'s if it has one; its output goes to `log`.

    Raises `StageFailed` with the stage's own message, or `StageKilled` if the child died.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started, clock, ooms = datetime.now(UTC), time.monotonic(), _oom_kills()
    process = (stand_by.take() if stand_by else None) or StageProcess(log)
    try:
        process.send(
            stage=stage,
            parents={role: parent.model_dump(mode="json") for role, parent in parents.items()},
            config=config.model_dump(mode="json"),
            out=str(out),
            log=str(log),
        )
        if stand_by is not None:
            stand_by.refill()
        last, peak = _listen(process, on_progress)
        highest = process.reap()
    finally:
        process.end()
    peak = max(peak, int(last.get("peak_bytes", 0)))
    if "facts" in last:
        return Execution(last["facts"], time.monotonic() - clock, peak, started)
    if "error" in last:
        raise StageFailed(last["error"], int(last["exit_code"]))
    # One that was killed may have grown between two looks at it.
    raise StageKilled(_epitaph(stage, process.child.returncode, max(peak, highest), _oom_kills() > ooms, log))


def child_environment() -> dict[str, str]:
    """The child's environment: this tree importable from anywhere, and the threads that this machine has."""
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        **thread_environment(),
        "PYTHONPATH": f"{_TREE}{os.pathsep}{inherited}" if inherited else _TREE,
    }


def _listen(
    process: StageProcess, on_progress: Callable[[ProgressEvent], None]
) -> tuple[dict[str, Any], int]:
    """Forward progress until the child closes its pipe; return its last word and its peak memory."""
    last: dict[str, Any] = {}
    peak, rest = 0, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.reader, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=0.5):
                peak = max(peak, resident_peak(process.child.pid))
                if process.ended():
                    return last, peak
                continue
            chunk = process.reader.read(65536)
            if not chunk:
                return last, peak
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "progress" in message:
                    on_progress(message["progress"])
                else:
                    last = message


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
