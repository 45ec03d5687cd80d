"""Processes that outlive the command that started them, and are ended without hurting anybody else's."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from registry.processes import ProcessId
from serving.errors import EngineFailed, EngineStays, NotServable, PortTaken

ROOT = Path(__file__).resolve().parents[2]
"""Where `python -m serving.…` finds this package, whether it is installed or checked out."""


@dataclass(frozen=True)
class Launch:
    """A command line that serves a model."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of the starter."""
    fds: tuple[int, ...] = ()
    """Descriptors that the engine takes over."""
    folder: Path = ROOT
    """Where it starts: `python -m` imports from there first."""


def listen(host: str, port: int) -> socket.socket:
    """Take `port` on `host` (0: a free one) by listening there, so that nobody else can.

    The engine inherits the socket. Raises `PortTaken`, naming the process that has it where the system
    tells; `NotServable` for a host or port that cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} on {host} is taken by {_who_listens(port)}; "
                "stop that, choose another port, or set port: 0 for a free one"
            ) from None
        raise NotServable(
            f"cannot listen on {host} port {port}: {error.strerror}; "
            "set port: 0 for a free one above 1024, and a host that this machine has"
        ) from None
    return listener


def listen_unix(path: Path) -> socket.socket:
    """Listen on a new Unix socket at `path`, which the engine inherits.

    Raises `NotServable` for a path that cannot be had; it may be about 100 bytes long.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        raise NotServable(
            f"cannot listen on the Unix socket {path}: {error}; set TMPDIR to a shorter path"
        ) from None
    return listener


def _who_listens(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for link in psutil.net_connections("tcp"):
            if link.status == psutil.CONN_LISTEN and link.laddr[1:2] == (port,) and link.pid:
                return f"process {link.pid} ({' '.join(psutil.Process(link.pid).cmdline())[:120]})"
    return "another process"


@contextlib.contextmanager
def running(
    launch: Launch, log: Path, ttl: float | None, grace: float, keep: bool = True
) -> Iterator[ProcessId]:
    """Start `launch` in a session of its own, its output appended to `log`.

    It keeps running when the block is left in order, unless `keep` is false. It is ended when the block
    raises, or when this process dies inside the block; and `ttl` seconds after its start, if given.
    `grace`: seconds between SIGTERM and SIGKILL. Raises `EngineFailed` if it cannot be started at all.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    end = {"ttl": ttl, "grace": grace}
    spec = {"argv": launch.argv, "fds": launch.fds, "cwd": str(launch.folder), "log": str(log), **end}
    with subprocess.Popen(
        [sys.executable, "-m", "serving.process.reaper", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        pass_fds=launch.fds,
        start_new_session=True,
        cwd=ROOT,
        env={**os.environ, **launch.env},
    ) as reaper:
        engine = _reported(reaper, log)
        try:
            yield engine
        except BaseException:
            stop(engine, grace)
            raise
        if not keep:
            stop(engine, grace)
            return
        assert reaper.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # ended just now; whoever asks it next will see
            reaper.stdin.write(b"keep\n")


def _reported(reaper: subprocess.Popen[bytes], log: Path) -> ProcessId:
    """The engine that the reaper has started."""
    assert reaper.stdout is not None
    report = json.loads(reaper.stdout.read() or b"{}")
    reaper.wait()  # it lives on in a child of its own, and this is no zombie meanwhile
    if "pid" not in report:
        reason = report.get("error", f"the launcher exited without reporting; see {log}")
        raise EngineFailed(f"the engine could not be started: {reason}")
    return ProcessId(report["pid"], report["pid_started"])


def stop(engine: ProcessId, grace: float) -> bool:
    """End the process and all of its session: SIGTERM, then SIGKILL after `grace` seconds.

    Returns False when it was gone already. Raises `EngineStays` when it may not be ended, or does not end.
    """
    leader = engine.find()
    if leader is None:
        return False
    members = _session(leader)
    try:
        with contextlib.suppress(psutil.NoSuchProcess):
            leader.terminate()
        _, staying = psutil.wait_procs(members, timeout=grace)
        for process in staying:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, staying = psutil.wait_procs(staying, timeout=5)
    except psutil.AccessDenied:
        raise EngineStays(
            f"process {engine.pid} belongs to another user and may not be ended; stop it as the user who "
            "deployed it"
        ) from None
    if any(_lives(process) for process in staying):
        raise EngineStays(
            f"process {engine.pid} did not end even when killed; see what it waits for: "
            f"ps -o stat,wchan -p {engine.pid}"
        )
    return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(leader: psutil.Process) -> list[psutil.Process]:
    """The leader and whatever it started that still runs; another session's processes are not."""
    members = [leader]
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if process.pid != leader.pid and os.getsid(process.pid) == leader.pid:
                members.append(process)
    return members


def last_words(engine: ProcessId, log: Path) -> str:
    """The end of an ended engine's log, with what it died of, which its reaper adds a moment later."""
    deadline = time.monotonic() + 2
    while f"engine {engine.pid} ended" not in (text := tail(log)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return text


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, which may be long."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            end = file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(end) or "(empty log)"
