"""Expensive things of the tests, made once per checkout and kept in its `.cache/`."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, written by `make` if it is not there; whoever else wants it meanwhile waits for it."""
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                make(draft)
                draft.rename(folder)
            except BaseException:
                shutil.rmtree(draft)
                raise
    return folder
