"""How many threads a process may keep busy here, and how idle ones should wait.

One answer for whatever computes: stages, engines and the measurements of files through llama.cpp.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

SPINS = 1000
"""How often an idle thread looks for more work before it sleeps, for about 10 µs: training is 1.4 times as
fast as with threads that sleep at once, and loses little when others want the core (docs/benchmarks.md)."""
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity mask, at most its control groups' CPU quota.

    Part of a core counts as one: the threads of a parallel section are held back together, so one more uses
    up the quota where one less would leave some of it.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(cores) for cores in _quotas())]))


def usable_threads() -> int:
    """Threads for a library that has to be told: what `OMP_NUM_THREADS` says, else `usable_cores`."""
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(threads) if threads.isdecimal() and int(threads) > 0 else usable_cores()


def thread_environment() -> dict[str, str]:
    """Variables for a process that computes: one pool of `usable_cores` threads that soon sleep.

    OpenMP (torch, oneDNN, MKL, bitsandbytes and llama.cpp share one library and its pool) gets the cores; the
    pools of NumPy's OpenBLAS and of the tokenizers, which would compete with it, get none. By default GNU
    OpenMP's threads spin for milliseconds at each barrier, which costs several times the work as soon as
    another process wants a core. What the user has set stays as it is.
    """
    wanted = {
        "OMP_NUM_THREADS": str(usable_cores()),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",  # the same for the OpenMP of LLVM and Intel
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if "OMP_WAIT_POLICY" not in os.environ:  # which it would overrule
        wanted["GOMP_SPINCOUNT"] = str(SPINS)
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def _quotas() -> Iterator[float]:
    """Cores that each control group above this process allows, of version 1 and of version 2."""
    for folder in _groups():
        with contextlib.suppress(OSError, ValueError):
            allowed, period = (folder / "cpu.max").read_text().split()
            yield int(allowed) / int(period)  # "max" is not a number: no limit
        with contextlib.suppress(OSError, ValueError):
            quota = int((folder / "cpu.cfs_quota_us").read_text())
            if quota > 0:  # -1: no limit
                yield quota / int((folder / "cpu.cfs_period_us").read_text())


def _groups() -> Iterator[Path]:
    """This process's control groups for the CPU and all above them, up to the mounted root.

    In a container the root is the container's own group, whatever the path in /proc names.
    """
    with contextlib.suppress(OSError):
        for line in _MEMBERSHIP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = _CGROUPS / controllers if controllers else _CGROUPS
            if not controllers and not (root / "cgroup.controllers").exists():
                root = _CGROUPS / "unified"
            folder = root / path.strip("/")
            yield from (group for group in (folder, *folder.parents) if group.is_relative_to(root))
