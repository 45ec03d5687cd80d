"""Which process is which: a pid alone is not trusted, because the system gives it out again."""

from __future__ import annotations

import hashlib
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_MACHINE = Path("/etc/machine-id")
_SAME_START = 2.0
"""Seconds. psutil adds a boot time in whole seconds that moves when the clock is set."""


@dataclass(frozen=True)
class ProcessId:
    """A process that is known again, also by another process and after a reboot."""

    pid: int
    started: float
    """Seconds since the epoch, as psutil gives it."""

    @classmethod
    def of(cls, pid: int | None = None) -> ProcessId:
        """Of a living process, by default this one."""
        process = psutil.Process(pid)
        return cls(process.pid, process.create_time())

    @property
    def record(self) -> dict[str, float]:
        """As tables and JSON documents call it."""
        return {"pid": self.pid, "pid_started": self.started}

    def find(self) -> psutil.Process | None:
        """The living process; None where it is gone, a zombie, or another has its pid by now."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _SAME_START
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            return self.find() is not None
        except psutil.AccessDenied:
            return True


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
