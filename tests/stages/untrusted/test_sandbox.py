"""The sandbox: what it may not do, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stages.errors import InvalidInput
from stages.untrusted import sandbox as module
from stages.untrusted.sandbox import MEBIBYTE, SandboxLimits, in_sandbox
from tests.seconds import seconds

ROOT = Path(__file__).resolve().parents[3]
HERE = "tests.stages.untrusted.test_sandbox"


def answer(path: str) -> dict[str, Any]:
    return {"path": path, "pid": os.getpid(), "group": os.getpgid(0)}


def refuse(path: str) -> None:
    raise InvalidInput(f"{path} is not what it should be; do this")


def stumble(path: str) -> None:
    {}["surprise"]


def compute(path: str) -> None:
    while True:
        pass


def wait(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    signal.pause()


def fork_and_wait(path: str) -> None:
    if os.fork() == 0:
        Path(path).write_text(str(os.getpid()))
    signal.pause()


def allocate(path: str) -> int:
    return len(bytearray(900 * MEBIBYTE))


def nest(path: str) -> None:
    nest(path)


def speak(path: str) -> str:
    return "a" * (3 * MEBIBYTE)


def write(path: str) -> None:
    Path(path).write_bytes(bytes(3 * MEBIBYTE))


def shout(path: str) -> int:
    print("a library that writes to stdout")
    os.write(1, b"and past Python")
    return 7


def die(path: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def call(name: str, path: str = "model", **limits: Any) -> Any:
    return in_sandbox(f"{HERE}:{name}", {"path": path}, path, SandboxLimits(**limits))


def test_a_result_comes_back_from_a_process_group_of_its_own() -> None:
    found = call("answer")
    assert found["path"] == "model"
    assert found["pid"] != os.getpid()
    assert found["group"] == found["pid"]


def test_what_libraries_print_does_not_mix_with_the_answer() -> None:
    assert call("shout") == 7


@pytest.mark.parametrize(
    ("name", "limits", "said"),
    [
        ("refuse", {}, "model is not what it should be; do this"),
        ("stumble", {}, "cannot be understood.*KeyError"),
        ("compute", {"cpu_seconds": 1}, "more than 1 s of computing"),
        ("allocate", {"memory_bytes": 256 * MEBIBYTE}, "more than 256 MiB"),
        ("nest", {}, "nested too deeply"),
        ("speak", {"output_bytes": MEBIBYTE}, "larger than 1 MiB|cannot be understood|status"),
        ("die", {}, "ended with status -11"),
    ],
)
def test_each_limit_gives_one_clear_refusal(name: str, limits: dict[str, Any], said: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidInput, match=said) as caught:
        call(name, **limits)
    assert "model" in str(caught.value)
    assert caught.value.exit_code == 3
    assert time.monotonic() - started < seconds(20)


def test_files_that_it_writes_are_limited_too(tmp_path: Path) -> None:
    target = tmp_path / "large"
    with pytest.raises(InvalidInput):
        call("write", str(target), output_bytes=MEBIBYTE)
    assert target.stat().st_size <= MEBIBYTE


@pytest.mark.parametrize("name", ["wait", "fork_and_wait"])
def test_who_waits_for_ever_is_ended_with_all_it_started(name: str, tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    allowed = seconds(3)
    with pytest.raises(InvalidInput, match=f"not read after {allowed:g} s"):
        call(name, str(noted), wall_seconds=allowed)
    pid = int(noted.read_text())
    until(lambda: gone(pid))


def test_it_dies_with_whoever_started_it(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    code = f"from tests.stages.untrusted.test_sandbox import call; call('wait', {str(noted)!r})"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        until(lambda: noted.exists() and bool(noted.read_text()))
    finally:
        parent.kill()
        parent.wait()
    child = int(noted.read_text())
    until(lambda: gone(child))


def test_each_limit_is_the_kernel_s() -> None:
    """With a limit left out, the same job gets through or takes longer: none of them is for show."""
    assert call("allocate") == 900 * MEBIBYTE
    assert call("speak") == "a" * (3 * MEBIBYTE)
    assert module.limits_for(10 * module.SCAN_RATE).cpu_seconds == SandboxLimits().cpu_seconds + 10


def gone(pid: int) -> bool:
    try:
        return "(zombie)" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def until(true: Any) -> None:
    deadline = time.monotonic() + seconds(20)
    while not true():
        assert time.monotonic() < deadline
        os.sched_yield()
