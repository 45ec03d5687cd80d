"""Directories for sockets, which go away with the process, or at the latest when the next one starts."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "tuneline-"


class RuntimeDir:
    """A directory that only its owner may open. It lives until `remove`, or until this process ends.

    What processes left that were killed is removed here first: a living one holds a lock on its own.
    """

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.path, self._lock = _made()
        while not (self.path / "lock").exists():  # swept by another before it was locked
            os.close(self._lock)
            self.path, self._lock = _made()

    def remove(self) -> None:
        """Delete it with all that is in it."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _made() -> tuple[Path, int]:
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return path, lock


def _sweep(folder: Path) -> None:
    for lock in folder.glob(f"{_PREFIX}*/lock"):
        try:
            handle = os.open(lock, os.O_RDWR)
        except OSError:  # gone meanwhile, or somebody else's
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
