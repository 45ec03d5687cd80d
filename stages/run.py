"""Run stages: `python -m stages.run`, started by a flow as its child.

On the Unix socket named on the command line come two descriptors for each stage. A job is one JSON line on
the first, which stays open: when it closes, the flow is gone and the stage's whole process group ends.
Progress and the result go, a JSON line each, to the second. On the socket go the stage's pid and, of a
forked one, its end.

With `--import-ahead` the libraries that most stages need are imported at once, and each stage gets a fork
of this process. CUDA does not survive a fork: with a GPU, as without that option, the first stage runs in
this process itself. No GPU memory outlives a stage.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO, get_type_hints

from pydantic import BaseModel, TypeAdapter

from registry.artifacts import JsonObject
from stages.backends.tokenizer import without_torch
from stages.contract import Parent, StageFunction
from stages.errors import StageError


def stage_module(stage: str) -> Any:
    """The module of a verb; it holds `VERSION`, `TOOLS` and a function of the verb's name."""
    return importlib.import_module(f"stages.{stage}")


def config_type(stage: str) -> Any:
    """The config class of a verb (a union for `quantize`), as its function declares it."""
    return get_type_hints(getattr(stage_module(stage), stage))["config"]


def run_stage(stage: str, parents: dict[str, Parent], config: BaseModel, out: Path) -> BaseModel:
    """Call a stage in this process."""
    function: StageFunction = getattr(stage_module(stage), stage)
    return function(parents, config, out)


class _ToPipe(logging.Handler):
    """Forwards progress records as JSON lines."""

    def __init__(self, pipe: TextIO) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "progress", None)
        if event is not None:
            send(self.pipe, progress=event)


def send(pipe: TextIO, **message: Any) -> None:
    """Write one message as a JSON line."""
    pipe.write(json.dumps(message, default=str) + "\n")
    pipe.flush()


def peak_memory() -> int:
    """Bytes: the larger of this process's peak resident size and its largest finished child's.

    `VmHWM` and not `ru_maxrss` of this process, which an exec inherits from the parent on Linux.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(children, resident_peak(os.getpid()))


def resident_peak(pid: int) -> int:
    """Bytes of peak resident memory of a live process; 0 where that cannot be read."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _settle(log: Path, out: Path) -> None:
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(out)


def _result(job: JsonObject) -> JsonObject:
    config = TypeAdapter(config_type(job["stage"])).validate_python(job["config"])
    parents = TypeAdapter(dict[str, Parent]).validate_python(job["parents"])
    if "torch" not in getattr(stage_module(job["stage"]), "TOOLS", ("torch",)):
        without_torch()
    facts = run_stage(job["stage"], parents, config, Path(job["out"]))
    return facts.model_dump(mode="json")


def main() -> int:
    line = socket.socket(fileno=int(sys.argv[1]))
    line.set_inheritable(False)
    forks = "--import-ahead" in sys.argv and importlib.import_module("stages.backends.preload").CAN_FORK
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, 1, 2)
        if not message:
            return 0
        child = _fork() if forks else 0
        if child:
            for descriptor in descriptors:
                os.close(descriptor)
            _answer(line, pid=child)
            _, status, usage = os.wait4(child, 0)
            peak = usage.ru_maxrss * 1024
            _answer(line, status=os.waitstatus_to_exitcode(status), peak_bytes=peak)
            continue
        if forks:
            line.close()
        else:
            _answer(line, pid=os.getpid())
        return _run(*descriptors)


def _fork() -> int:
    """Zero in a child with a process group of its own; its pid in this process, once it has one."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():  # the threads that libraries have by now are stopped by them for a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    with contextlib.suppress(PermissionError, ProcessLookupError):  # it has done so itself
        os.setpgid(child, 0)
    return child


def _answer(line: socket.socket, **message: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the flow is gone
        line.sendall(json.dumps(message).encode() + b"\n")


def _run(jobs: int, results: int) -> int:
    os.dup2(jobs, 0)
    os.close(jobs)
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    job = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe = os.fdopen(results, "w", encoding="utf-8")
    _settle(Path(job["log"]), Path(job["out"]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("tuneline").addHandler(_ToPipe(pipe))
    try:
        facts = _result(job)
    except Exception as error:
        traceback.print_exc()
        known = isinstance(error, StageError) or hasattr(error, "exit_code")
        message = str(error) if known else f"{type(error).__name__}: {error}"
        send(pipe, error=message, exit_code=getattr(error, "exit_code", 4), peak_bytes=peak_memory())
        return 1
    send(pipe, facts=facts, peak_bytes=peak_memory())
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
