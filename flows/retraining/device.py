"""One run for each GPU of a machine, for each machine without one: a lock that the kernel frees with its
holder, whichever registry and schedule the others are of."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flows.settings import Settings

LOOK_SECONDS = 1.0


@contextlib.contextmanager
def own_device(settings: Settings, gpus: int, report: Callable[[str], None]) -> Iterator[int | None]:
    """Wait for a GPU that no other run of a schedule has, and keep it; its number, None on a machine without.

    Within the block, what is started sees that GPU alone.
    """
    folder = settings.cache_folder / "devices"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"gpu-{number}" for number in _visible(gpus)] or ["machine"]
    with contextlib.ExitStack() as stack:
        name = _first_free(folder, names, stack, report)
        if name == "machine":
            yield None
            return
        number, before = name.removeprefix("gpu-"), os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = number
        try:
            yield int(number)
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _visible(gpus: int) -> list[str]:
    """The numbers of the GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(gpus)]
    return [number for text in named.split(",") if (number := text.strip()).isdigit()]


def _first_free(
    folder: Path, names: list[str], stack: contextlib.ExitStack, report: Callable[[str], None]
) -> str:
    waiting = False
    while True:
        for name in names:
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            stack.callback(os.close, descriptor)
            return name
        if not waiting:
            report(f"waiting: another scheduled run has {' and '.join(names)} of this machine")
            waiting = True
        time.sleep(LOOK_SECONDS)  # a lock of several files cannot be waited for
