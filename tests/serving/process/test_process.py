"""Processes that outlive their starter, and those that must not be touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from registry.processes import ProcessId
from serving.errors import EngineFailed
from serving.process import process
from serving.process.process import Launch
from tests.seconds import seconds

TREE = Path(__file__).resolve().parents[3]
PAUSE = "import signal; signal.pause()"
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"],
    stdout=subprocess.PIPE)
child.stdout.readline()
print("child", child.pid, flush=True)
signal.pause()
"""


def python(code: str) -> Launch:
    return Launch((sys.executable, "-c", code))


def wait_for(log: Path, text: str) -> str:
    """Follow a log until a line holds `text`."""
    with subprocess.Popen(
        ["tail", "-n", "+1", "-F", str(log)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as tail:
        assert tail.stdout is not None
        line = next(line.decode() for line in tail.stdout if text.encode() in line)
        tail.kill()
    return line


def gone(pid: int) -> bool:
    try:
        psutil.wait_procs([psutil.Process(pid)], timeout=seconds(10))
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_stays_when_the_block_is_left_in_order(tmp_path: Path) -> None:
    with process.running(python(PAUSE), tmp_path / "log", ttl=None, grace=5) as started:
        pass
    living = started.find()
    assert living is not None
    assert os.getsid(started.pid) == started.pid != os.getsid(0)
    assert living.ppid() != os.getpid()
    assert process.stop(started, grace=5)
    assert "ended: signal SIGTERM" in process.last_words(started, tmp_path / "log")


def test_no_zombie_stands_for_a_running_engine(tmp_path: Path) -> None:
    with process.running(python(PAUSE), tmp_path / "log", ttl=None, grace=5, keep=False) as started:
        assert started.find()
        states = [child.status() for child in psutil.Process().children()]
        assert psutil.STATUS_ZOMBIE not in states
    assert gone(started.pid)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_it_ends_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    with (
        pytest.raises(error),
        process.running(python(PAUSE), tmp_path / "log", ttl=None, grace=5) as started,
    ):
        raise error
    assert started.find() is None


def test_it_ends_when_the_starter_is_killed_inside_the_block(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from serving.process import process
launch = process.Launch((sys.executable, "-c", {PAUSE!r}))
with process.running(launch, Path({str(tmp_path / "log")!r}), None, 5) as started:
    print(started.pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=TREE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert psutil.pid_exists(pid)
        starter.kill()
    assert gone(pid)


def test_a_signal_to_the_reaper_ends_the_engine_too(tmp_path: Path) -> None:
    with process.running(python(PAUSE), tmp_path / "log", ttl=None, grace=5) as started:
        pass
    psutil.Process(started.pid).parent().terminate()  # type: ignore[union-attr]
    assert gone(started.pid)
    assert "its reaper was asked to end" in process.last_words(started, tmp_path / "log")


def test_the_stubborn_are_killed_with_all_they_started(tmp_path: Path) -> None:
    with process.running(python(STUBBORN), tmp_path / "log", ttl=None, grace=5) as started:
        child = int(wait_for(tmp_path / "log", "child").split()[1])
    assert process.stop(started, grace=0.2)
    assert gone(started.pid)
    assert gone(child)


def test_nothing_stays_even_without_a_reaper(tmp_path: Path) -> None:
    with process.running(python(STUBBORN), tmp_path / "log", ttl=None, grace=5) as started:
        child = int(wait_for(tmp_path / "log", "child").split()[1])
    reaper = psutil.Process(started.pid).parent()
    assert reaper is not None
    reaper.kill()
    assert gone(reaper.pid)
    assert process.stop(started, grace=0.2)
    assert gone(started.pid)
    assert gone(child)


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    with process.running(python(STUBBORN), tmp_path / "log", ttl=None, grace=5) as started:
        child = int(wait_for(tmp_path / "log", "child").split()[1])
    os.kill(started.pid, signal.SIGKILL)
    assert gone(child)
    assert "if nobody did that, the system ran out of memory" in process.last_words(started, tmp_path / "log")


def test_a_time_to_live_that_needs_force(tmp_path: Path) -> None:
    with process.running(python(STUBBORN), tmp_path / "log", ttl=1.5, grace=0.2) as started:
        wait_for(tmp_path / "log", "child")
    assert gone(started.pid)
    assert "ended: killed" in process.last_words(started, tmp_path / "log")


def test_another_process_with_the_same_pid_is_left_alone() -> None:
    foreign = subprocess.Popen([sys.executable, "-c", PAUSE], start_new_session=True)
    try:
        began = psutil.Process(foreign.pid).create_time()
        for recorded in (began - 60, began + 60, 0.0):
            assert ProcessId(foreign.pid, recorded).find() is None
            assert process.stop(ProcessId(foreign.pid, recorded), grace=1) is False
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", PAUSE]) as child:
        began = psutil.Process(child.pid).create_time()
        assert ProcessId(child.pid, began).find() is not None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert ProcessId(child.pid, began).find() is None


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    launch = Launch((str(tmp_path / "no-such-python"), "-c", PAUSE))
    with (
        pytest.raises(EngineFailed, match="no-such-python: No such file or directory"),
        process.running(launch, tmp_path / "log", ttl=None, grace=1),
    ):
        pass


def test_the_starters_environment_and_additions_arrive(tmp_path: Path) -> None:
    launch = Launch(
        (sys.executable, "-c", "import os; print('got', os.environ['EXTRA'], os.environ['HOME'])"),
        {"EXTRA": "x"},
    )
    with process.running(launch, tmp_path / "log", ttl=None, grace=1) as started:
        words = process.last_words(started, tmp_path / "log")
    assert f"got x {os.environ['HOME']}" in words
    assert "ended: status 0" in words


def test_the_tail_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert process.tail(log) == "(no log)"
    log.write_text("")
    assert process.tail(log) == "(empty log)"
    log.write_text("".join(f"line {i}\n" for i in range(100_000)))
    assert process.tail(log, lines=2) == "line 99998\nline 99999"


def test_last_words_do_not_wait_for_ever(tmp_path: Path) -> None:
    assert process.last_words(ProcessId(1, 0.0), tmp_path / "log") == "(no log)"
