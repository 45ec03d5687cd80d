"""Run a stage in a child process of its own, with its own process group and memory.

Half of a short stage's time is importing libraries. A `WarmWorker` does so once and forks for each stage.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from registry.artifacts import JsonObject
from serving.cores import thread_environment
from stages.contract import Parent, ProgressEvent
from stages.errors import StageError, StageKilled
from stages.run import resident_peak

GRACE_SECONDS = 5.0
_TREE = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class StageExecution:
    """How a stage's run went."""

    facts: JsonObject
    seconds: float
    peak_bytes: int
    started: datetime


class StageFailed(StageError):
    """The stage itself refused or failed; carries the exit code that it asked for."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StageServer:
    """A process that runs stages; see `stages.run`. With `--import-ahead` it forks for each of them."""

    def __init__(self, log: Path, *options: str) -> None:
        self.log = log
        self.socket, theirs = socket.socketpair()
        self._answers = self.socket.makefile("rb")
        with theirs, log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stages.run", str(theirs.fileno()), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd=_TREE,
                env=child_environment(),
            )

    def answer(self) -> dict[str, int] | None:
        """What it says next, waiting for it; None once it has ended."""
        line = b""
        with contextlib.suppress(ConnectionResetError):  # it ended before it read what it was sent
            line = self._answers.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        """Have it end, and wait for that; it has no stage under way."""
        self._answers.close()
        self.socket.close()
        self.process.terminate()
        self.process.wait()


class WarmWorker:
    """Context manager with one process that has imported what most stages need, and forks for each.

    It starts with the first stage: a run that finds all its results imports nothing.
    `log`: where it writes until it has a stage.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self.server: StageServer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if a stage had it started."""
        if self.server is not None:
            self.server.end()
            self.server = None

    def living(self) -> StageServer:
        """The process; a new one where there is none yet, or somebody killed it."""
        if self.server is not None and self.server.process.poll() is not None:
            self.close()
        return self.server or self.refill()

    def refill(self) -> StageServer:
        """Start a process for the stages to come; whoever has the one before ends it."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self.server = StageServer(self._log, "--import-ahead")
        return self.server


class KeptWorker(WarmWorker):
    """One that serves several runs, one after the other, and ends by `close`."""

    def __exit__(self, *_: object) -> None:
        """The next run wants it, too."""


class StageProcess:
    """One stage's process, which leads a process group of its own."""

    def __init__(self, server: StageServer) -> None:
        self._server = server
        self._status: int | None = None
        job_end, self._jobs = os.pipe()
        read_end, write_end = os.pipe()
        self.reader = os.fdopen(read_end, "rb", buffering=0)
        try:
            with contextlib.suppress(BrokenPipeError):  # one that is gone shows when it is listened to
                socket.send_fds(server.socket, [b"+"], [job_end, write_end])
        finally:
            os.close(job_end)
            os.close(write_end)
        self.pid = (server.answer() or {"pid": server.process.pid})["pid"]
        self.forked = self.pid != server.process.pid

    def send(self, **job: Any) -> None:
        """Give it its job; a process that is gone by now shows when it is listened to."""
        with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(self._jobs), "wb") as jobs:
            jobs.write(json.dumps(job).encode() + b"\n")

    def ended(self, within: float = 0.0) -> bool:
        """Whether it is gone, after at most so many seconds; it stays to be reaped."""
        if self.forked:
            return bool(select.select([self._server.socket], [], [], within)[0])
        until = time.monotonic() + within
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        return True

    def reap(self) -> tuple[int, int]:
        """Wait for its end: its status, negative for a signal's, and bytes of its peak resident memory."""
        answer = self._server.answer() if self.forked else None
        if answer is not None:
            self._status, peak = answer["status"], answer["peak_bytes"]
        else:
            _, status, usage = os.wait4(self._server.process.pid, 0)
            self._status = self._server.process.returncode = os.waitstatus_to_exitcode(status)
            peak = usage.ru_maxrss * 1024
        return self._status, peak

    def end(self) -> None:
        """End the process and whatever it started; first politely, then not."""
        os.close(self._jobs)
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)
            self.ended(within=GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._status is None:
            self.reap()
        self.reader.close()


def run_in_child(
    stage: str,
    parents: Mapping[str, Parent],
    config: BaseModel,
    out: Path,
    log: Path,
    on_progress: Callable[[ProgressEvent], None],
    stand_by: WarmWorker | None = None,
) -> StageExecution:
    """Run `stage` in a child, of `stand_by` if given; its output goes to `log`.

    Raises `StageFailed` with the stage's own message, or `StageKilled` if the child died.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started, clock, ooms = datetime.now(UTC), time.monotonic(), _oom_kills()
    server = stand_by.living() if stand_by else StageServer(log)
    process = StageProcess(server)
    if stand_by is not None and not process.forked:
        stand_by.refill()
    try:
        process.send(
            stage=stage,
            parents={role: parent.model_dump(mode="json") for role, parent in parents.items()},
            config=config.model_dump(mode="json"),
            out=str(out),
            log=str(log),
        )
        last, peak = _listen(process, on_progress)
        status, highest = process.reap()
    finally:
        process.end()
        if not process.forked:
            server.end()
    peak = max(peak, int(last.get("peak_bytes", 0)))
    if "facts" in last:
        return StageExecution(last["facts"], time.monotonic() - clock, peak, started)
    if "error" in last:
        raise StageFailed(last["error"], int(last["exit_code"]))
    # One that was killed may have grown between two looks at it.
    output = log if log.exists() else server.log  # where one writes before it hears of its stage
    raise StageKilled(_epitaph(stage, status, max(peak, highest), _oom_kills() > ooms, output))


def child_environment() -> dict[str, str]:
    """The child's environment: this tree importable from anywhere, and the threads that this machine has."""
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        **thread_environment(),
        "PYTHONPATH": f"{_TREE}{os.pathsep}{inherited}" if inherited else _TREE,
    }


def _listen(process: StageProcess, on_progress: Callable[[ProgressEvent], None]) -> tuple[JsonObject, int]:
    """Forward progress until the child closes its pipe; return its last word and its peak memory."""
    last: JsonObject = {}
    peak, rest = 0, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.reader, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=0.5):
                peak = max(peak, resident_peak(process.pid))
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
