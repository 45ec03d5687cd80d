"""What this machine has to offer: memory, disk, cores, GPUs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts import digest
from serving.cores import usable_cores
from stages.contract import toolchain

USUAL_IMPORTS = 592_000_000
"""With the locked versions on x86-64, where it was not measured."""
_TREE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Machine:
    """Bytes free now; `cuda`: name and total bytes of each GPU; `imports`: resident bytes of a process with
    what most stages import, `imports_measured` here."""

    memory_available: int
    disk_free: int
    cpu_count: int
    cuda: tuple[tuple[str, int], ...] = ()
    imports: int = USUAL_IMPORTS
    imports_measured: bool = True


def machine(folder: Path = Path(), cache: Path | None = None, measure: bool = True) -> Machine:
    """What is free here: memory within the container's limit, disk under `folder`, GPUs of nvidia-smi.

    With `cache` the size of the imports is what `cache` has of this environment; else it is measured there
    once, which takes as long as they do (6 s). Without `measure` it is the usual one then.
    """
    import psutil

    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    memory = min(psutil.virtual_memory().available, _container_memory())
    imports = None if cache is None else _imports(cache, measure)
    measured = cache is None or imports is not None
    disk = shutil.disk_usage(existing).free
    return Machine(int(memory), disk, usable_cores(), _cuda(), imports or USUAL_IMPORTS, measured)


def _imports(cache: Path, measure: bool) -> int | None:
    """Resident bytes of a process with `stages.backends.preload`; the usual ones where it cannot start, None
    where they would have to be measured and are not to be."""
    tools = toolchain(("torch", "transformers", "peft", "bitsandbytes", "lm-eval"))
    if tools["torch"] == "absent":  # a light installation, which runs nothing
        return USUAL_IMPORTS
    file = cache / f"imports-{digest([sys.version, sys.prefix, tools])[:20]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(file.read_text())["resident_bytes"])
    if not measure:
        return None
    command = [sys.executable, "-m", "stages.backends.preload"]
    done = subprocess.run(command, cwd=_TREE, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    try:
        resident = int(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return USUAL_IMPORTS
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.write_text(json.dumps({"resident_bytes": resident}))
        draft.replace(file)
    return resident


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
