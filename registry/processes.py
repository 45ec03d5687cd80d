"""Which process is which: a pid alone is not trusted, because the system gives it out again."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil

_MACHINE = Path("/etc/machine-id")
_SAME_START = 2.0  # seconds; a start time moves a little when the clock is set


def host_id() -> str:
    """This host and, on Linux, its pid namespace: where a pid means the same process.

    A host is its name and, since names repeat, its machine id; both outlast a reboot, after which a pid that
    was at work is known to be gone.
    """
    parts = [this_host()]
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def this_host() -> str:
    """The host's name and a digest of its machine id, whatever the pid namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        # The id itself is not for others to see (machine-id(5)); a digest tells machines apart as well.
        parts.append(hashlib.sha256(b"tuneline " + _MACHINE.read_bytes()).hexdigest()[:12])
    return " ".join(parts)


def start_time(pid: int | None = None) -> float:
    """When the process (default: this one) started, in seconds since the epoch."""
    return psutil.Process(pid or os.getpid()).create_time()


def is_alive(pid: int, pid_started: float) -> bool:
    """Whether the process that started then still runs; a zombie does not."""
    try:
        process = psutil.Process(pid)
        return (
            abs(process.create_time() - pid_started) < _SAME_START
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
