"""Stand beside an engine until it ends: `python -m serving.process.reaper SPEC`.

An engine has to outlive the command that started it, and somebody has to reap it, to end it when its
time is up, and to write down what it died of. That is this process: it lets go of its starter, starts
the engine in a session of its own and waits. Standard input tells what becomes of the starter: `keep`
leaves the engine running, an end without it means that the starter died, or is done with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from registry.processes import ProcessId


def main() -> None:
    spec = json.loads(sys.argv[1])
    if os.fork():
        os._exit(0)
    os.setsid()
    with Path(spec["log"]).open("ab", buffering=0) as log:
        # A signal may come before there is anything to end; it must not be the reaper that ends.
        early: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: early.append(number))
        try:
            engine = subprocess.Popen(
                spec["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=spec["fds"],
                start_new_session=True,
                cwd=spec["cwd"],
            )
        except OSError as error:
            _report({"error": f"{spec['argv'][0]}: {error.strerror}"})
            return
        for fd in spec["fds"]:
            os.close(fd)  # or the port stays taken for as long as this process lives
        _report(ProcessId.of(engine.pid).record)
        os.dup2(log.fileno(), 1)  # the starter reads until this end of its pipe closes
        os.dup2(log.fileno(), 2)
        _watch(engine, spec["ttl"], spec["grace"], early)


def _report(facts: Mapping[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the starter is gone; standard input will say so
        os.write(1, json.dumps(facts).encode() + b"\n")


def _watch(engine: subprocess.Popen[bytes], ttl: float | None, grace: float, early: list[int]) -> None:
    """Wait for the engine; end it `ttl` seconds from now, or when the starter or a signal says so."""
    ending = threading.Lock()

    def end(why: str) -> None:
        if ending.acquire(blocking=False):
            _say(f"ending engine {engine.pid}: {why}")
            threading.Thread(target=_end, args=(engine, grace), daemon=True).start()

    def heed_starter() -> None:
        if os.read(0, 16) != b"keep\n":
            end("the process that started it is gone, or has let it go")

    signal.signal(signal.SIGTERM, lambda *_: end("its reaper was asked to end"))
    if early:
        end("its reaper was asked to end")
    threading.Thread(target=heed_starter, daemon=True).start()
    if ttl is not None:
        timer = threading.Timer(ttl, end, [f"its {ttl / 60:g} minutes have passed"])
        timer.daemon = True
        timer.start()
    status = engine.wait()
    _kill_group(engine.pid, signal.SIGKILL)  # what it started ends with it
    _say(f"engine {engine.pid} ended: {_describe(status)}")


def _end(engine: subprocess.Popen[bytes], grace: float) -> None:
    _kill_group(engine.pid, signal.SIGTERM)
    try:
        engine.wait(grace)
    except subprocess.TimeoutExpired:
        _kill_group(engine.pid, signal.SIGKILL)


def _kill_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _describe(status: int) -> str:
    if status == -signal.SIGKILL:
        return "killed (SIGKILL); if nobody did that, the system ran out of memory"
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _say(text: str) -> None:
    os.write(1, f"tuneline: {text}\n".encode())


if __name__ == "__main__":
    main()
