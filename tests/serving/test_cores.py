"""How many threads are used: the affinity mask, control groups made for the test, and what the user says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.run import child
from serving import cores
from serving.cores import thread_environment, usable_cores, usable_threads
from serving.llama_cpp import launch as llama_cpp
from serving.process.process import listen

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts control groups of files in the place of the kernel's, and 16 cores into the affinity mask."""
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))

    def use(membership: str, **files: str) -> None:
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return use


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "cgroup.controllers": "cpu"}, 16),
        ("0::/job/step\n", {"job/cpu.max": "250000 100000\n", "cgroup.controllers": "cpu"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n", "cgroup.controllers": "cpu"}, 1),
        ("0::/a\n", {"a/cpu.max": "3200000 100000\n", "cgroup.controllers": "cpu"}, 16),
        (
            "0::/a/b\n",
            {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "800000 100000\n", "cgroup.controllers": "cpu"},
            2,
        ),
        ("1:cpu:/job\n0::/\n", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, 16),
        (
            "4:cpu,cpuacct:/job\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "400000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            4,
        ),
        # in a container /proc names the host's path, and the mount is the container's own group
        (
            "1:cpu:/docker/0123\n",
            {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("2:cpuset:/job\n", {"cpuset/job/cpu.max": "100000 100000"}, 16),
        ("", {}, 16),
    ],
    ids=[
        "v2 without limit", "v2 above", "v2 half a core", "v2 more than there are", "v2 the smallest counts",
        "v1 without limit", "v1 with accounting", "v1 in a container", "another controller", "none",
    ],
)  # fmt: skip
def test_the_quota_bounds_the_cores(
    membership: str, files: dict[str, str], expected: int, groups: Callable[..., None]
) -> None:
    groups(membership, **files)
    assert usable_cores() == expected


ASK = "from serving.cores import usable_cores; print(usable_cores())"


def test_the_affinity_mask_bounds_the_cores() -> None:
    one = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", one, sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.fixture
def real_group() -> Iterator[tuple[Path, str, str]]:
    """A control group of the kernel's below this process's own; skipped where none may be made."""
    for base, quota in (
        (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"),
        (Path("/sys/fs/cgroup"), "cpu.max"),
    ):
        group = base / f"tuneline-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / quota).exists():
                yield group, quota, "50000" if quota == "cpu.cfs_quota_us" else "50000 100000"
                return
        finally:
            group.rmdir()
    pytest.skip("this machine lets nobody make a control group with a CPU quota")


def test_a_real_control_group_bounds_the_cores(real_group: tuple[Path, str, str]) -> None:
    group, quota, half_a_core = real_group
    (group / quota).write_text(half_a_core)
    inside = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0'); {ASK}"
    done = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    # nothing but the quota says so
    (group / quota).write_text("-1" if quota == "cpu.cfs_quota_us" else "max")
    done = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(CORES)


@pytest.mark.parametrize(
    ("asked", "expected"), [("3", 3), ("4,2", 4), ("", CORES), ("0", CORES), ("many", CORES)]
)
def test_what_the_user_asks_for_goes_first(
    asked: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usable_threads() == expected


def test_children_get_one_pool_that_soon_sleeps(
    groups: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in thread_environment():
        monkeypatch.delenv(name, raising=False)
    groups("0::/\n", **{"cpu.max": "300000 100000", "cgroup.controllers": "cpu"})
    environment = child.child_environment()
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    assert [environment[name] for name in names] == ["3", "PASSIVE", "1000"]
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    environment = child.child_environment()
    assert environment["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in environment


def test_an_engine_gets_the_threads_of_the_quota(
    groups: Callable[..., None], smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in thread_environment():
        monkeypatch.delenv(name, raising=False)
    groups("0::/\n", **{"cpu.max": "300000 100000", "cgroup.controllers": "cpu"})
    with listen("127.0.0.1", 0) as listener:
        launch = llama_cpp.launch(smollm2_gguf, "x", listener, 256, None)
        told = llama_cpp.launch(smollm2_gguf, "x", listener, 256, 5)
    assert launch.argv[launch.argv.index("--threads") + 1] == "3"
    assert launch.env["OMP_WAIT_POLICY"] == "PASSIVE"
    assert told.argv[told.argv.index("--threads") + 1] == "5"


WITHIN_ONE_POOL = """
import re, sys
from pathlib import Path
import torch, bitsandbytes, llama_cpp
import stages.backends.evaluate.measure
maps = Path("/proc/self/maps").read_text()
print(len(set(re.findall(r"\\S*/lib(?:gomp|iomp5|omp)[^/]*\\.so\\S*", maps))), torch.get_num_threads())
"""


def test_what_a_stage_loads_shares_one_pool_of_threads() -> None:
    environment = {**child.child_environment(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", WITHIN_ONE_POOL]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-2:] == ["1", "1"]
