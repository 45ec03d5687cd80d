"""What this machine has to offer: memory, disk, cores, GPUs."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serving.cores import usable_cores


@dataclass(frozen=True)
class Machine:
    """Bytes free now; `cuda`: name and total bytes of each GPU."""

    memory_available: int
    disk_free: int
    cpu_count: int
    cuda: tuple[tuple[str, int], ...] = ()


def machine(folder: Path = Path()) -> Machine:
    """What is free here: memory within the container's limit, disk under `folder`, GPUs of nvidia-smi."""
    import psutil

    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    memory = min(psutil.virtual_memory().available, _container_memory())
    return Machine(int(memory), shutil.disk_usage(existing).free, usable_cores(), _cuda())


_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where version 2 and version 1 of control groups tell limit, use, and how much of it is only file cache."""


def _container_memory() -> float:
    """Bytes left under the control group's limit; infinity where there is none."""
    for folder, limit, used, cache in _CGROUPS:
        with contextlib.suppress(OSError, ValueError, KeyError):
            allowed = int((folder / limit).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(0, allowed - int((folder / used).read_text()) + int(statistics[cache]))
    return float("inf")


def _cuda() -> tuple[tuple[str, int], ...]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [line.rpartition(",") for line in done.stdout.splitlines() if "," in line]
    return tuple((name.strip(), int(mebibytes) << 20) for name, _, mebibytes in rows)
