"""A stage in a child process: its result, its own refusal, its violent end, and its parent's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.run import child
from flows.run.child import KeptWorker, StageFailed, WarmWorker, run_in_child
from stages.contract import StageConfig
from stages.errors import StageKilled
from tests.seconds import seconds

STAGE = """
    from __future__ import annotations
    import os, pathlib, signal, subprocess, sys, threading
    from stages.contract import Facts, Parents, StageConfig, progress
    from stages.errors import InvalidInput

    class Config(StageConfig):
        what: str

    def probe(parents: Parents, config: Config, out: pathlib.Path) -> Facts:
        progress(1, 2, "steps", loss=0.5)
        print("printed by the stage")
        if config.what == "refuse":
            raise InvalidInput("the cake is a lie; bake another")
        if config.what == "defect":
            raise KeyError("cake")
        if config.what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if config.what == "exit":
            os._exit(7)
        if config.what == "leave":
            subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        if config.what == "wait":
            grandchild = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
            (out / "pids").write_text(f"{os.getpid()} {grandchild.pid}")
            progress(2, 2, "steps")
            threading.Event().wait()
        (out / "file").write_text("x")
        return Facts(kind="dataset", metrics={"what": config.what, "pid": os.getpid()})
"""

CUSTOMIZE = """
import sys, types
import stages
stages.__path__.append({folder!r})
sys.modules["stages.backends.preload"] = types.SimpleNamespace(CAN_FORK={can_fork})
"""
"""Of each process: the stage is found, and no library is imported ahead, which takes longer than all else;
the runs of tests/e2e do so."""


class Probe(StageConfig):
    what: str


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a stage that lives in a folder of its own, found through `stages.__path__`."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "probe.py").write_text(textwrap.dedent(STAGE))
    (folder / "sitecustomize.py").write_text(CUSTOMIZE.format(folder=str(folder), can_fork=True))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    out = tmp_path / "out"
    out.mkdir()
    events: list[dict[str, Any]] = []

    def call(what: str, stand_by: WarmWorker | None = None) -> Any:
        log = tmp_path / "log"
        return run_in_child("probe", {}, Probe(what=what), out, log, events.append, stand_by), events

    return call


def test_result_progress_and_log(probe: Callable[..., Any], tmp_path: Path) -> None:
    execution, events = probe("fine")
    assert execution.facts["metrics"]["what"] == "fine"
    assert execution.facts["metrics"]["pid"] != os.getpid()
    assert execution.peak_bytes > 1e6
    assert events == [{"done": 1, "total": 2, "unit": "steps", "loss": 0.5}]
    assert "printed by the stage" in (tmp_path / "log").read_text()


def test_refusal_keeps_message_and_code(probe: Callable[..., Any]) -> None:
    with pytest.raises(StageFailed, match=r"^the cake is a lie; bake another$") as caught:
        probe("refuse")
    assert caught.value.exit_code == 3


def test_defect_names_its_type(probe: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="KeyError: 'cake'") as caught:
        probe("defect")
    assert caught.value.exit_code == 4
    assert "Traceback" in (tmp_path / "log").read_text()


def test_killed_says_so(probe: Callable[..., Any]) -> None:
    with pytest.raises(StageKilled, match=r"probe was killed by SIGKILL at .* GB; .*log"):
        probe("die")


def test_killed_for_memory_says_so(probe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(child, "_oom_kills", lambda: next(counts))
    with pytest.raises(StageKilled, match=r"out-of-memory killer at .* GB\. Free memory"):
        probe("die")


def test_silent_exit_is_no_success(probe: Callable[..., Any]) -> None:
    with pytest.raises(StageKilled, match="status 7 and no result"):
        probe("exit")


def test_nothing_that_a_stage_started_outlives_it(probe: Callable[..., Any]) -> None:
    execution, _ = probe("leave")
    group = execution.facts["metrics"]["pid"]
    members = [process for process in psutil.process_iter() if _group(process.pid) == group]
    _, alive = psutil.wait_procs(members, timeout=seconds(20))
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_child_ends_when_its_parent_is_killed(probe: Callable[..., Any], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flows.run.child import run_in_child;"
        "from tests.flows.run.test_child import Probe;"
        "run_in_child('probe', {}, Probe(what='wait'), Path(sys.argv[1]), Path(sys.argv[2]),"
        " lambda e: print(e['done'], flush=True))"
    )
    root = Path(__file__).resolve().parents[3]
    path = f"{os.environ['PYTHONPATH']}{os.pathsep}{root}"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out"), str(tmp_path / "log")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert parent.stdout is not None
    assert [parent.stdout.readline().strip() for _ in range(2)] == ["1", "2"]
    pids = [int(pid) for pid in (tmp_path / "out" / "pids").read_text().split()]
    watched = [psutil.Process(pid) for pid in pids]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(watched, timeout=seconds(20))
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_a_warm_process_forks_for_each_stage(probe: Callable[..., Any], tmp_path: Path) -> None:
    with WarmWorker(tmp_path / "logs" / "stand-by") as stand_by:
        warm = stand_by.living().process
        pids = [probe("fine", stand_by)[0].facts["metrics"]["pid"] for _ in range(2)]
        assert {os.getpid(), warm.pid}.isdisjoint(pids)
        assert pids[0] != pids[1]
        assert stand_by.living().process is warm
    assert "printed by the stage" in (tmp_path / "log").read_text()
    assert warm.returncode is not None


def test_without_a_stage_no_process_starts(tmp_path: Path) -> None:
    with WarmWorker(tmp_path / "stand-by") as stand_by:
        assert stand_by.server is None
    assert not (tmp_path / "stand-by").exists()


def test_one_that_is_kept_serves_several_runs(probe: Callable[..., Any], tmp_path: Path) -> None:
    kept = KeptWorker(tmp_path / "stand-by")
    kept.close()  # no run came
    served = []
    for _ in range(2):
        with kept as stand_by:
            served.append(stand_by.living().process)
            assert probe("fine", stand_by)[0].facts["metrics"]["what"] == "fine"
    assert served[0] is served[1]
    assert served[0].returncode is None
    kept.close()
    assert served[0].returncode is not None


@pytest.mark.parametrize(
    ("what", "message"), [("die", "killed by SIGKILL at .* GB"), ("exit", "status 7 and no result")]
)
def test_the_end_of_a_fork_is_told_and_the_next_stage_runs(
    probe: Callable[..., Any], tmp_path: Path, what: str, message: str
) -> None:
    with WarmWorker(tmp_path / "stand-by") as stand_by:
        with pytest.raises(StageKilled, match=message):
            probe(what, stand_by)
        execution, _ = probe("leave", stand_by)
        (tmp_path / "out" / "file").unlink()
        assert probe("fine", stand_by)[0].facts["metrics"]["what"] == "fine"
    group = execution.facts["metrics"]["pid"]
    members = [process for process in psutil.process_iter() if _group(process.pid) == group]
    _, alive = psutil.wait_procs(members, timeout=seconds(20))
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_fork_ends_when_the_flow_is_interrupted(probe: Callable[..., Any], tmp_path: Path) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["done"] == 2:
            raise KeyboardInterrupt

    with WarmWorker(tmp_path / "stand-by") as stand_by:
        arguments = (tmp_path / "out", tmp_path / "log", interrupt, stand_by)
        with pytest.raises(KeyboardInterrupt):
            run_in_child("probe", {}, Probe(what="wait"), *arguments)
        pids = [int(pid) for pid in (tmp_path / "out" / "pids").read_text().split()]
        gone = [pid for pid in pids if not psutil.pid_exists(pid) or _is_zombie(pid)]
        assert gone == pids
        assert probe("fine", stand_by)[0].facts["metrics"]["what"] == "fine"


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_warm_process_that_died_is_replaced(probe: Callable[..., Any], tmp_path: Path) -> None:
    with WarmWorker(tmp_path / "stand-by") as stand_by:
        warm = stand_by.living().process
        warm.kill()
        warm.wait()
        execution, _ = probe("fine", stand_by)
        assert stand_by.living().process is not warm
    assert execution.facts["metrics"]["what"] == "fine"


def test_a_warm_process_that_dies_before_it_hears_of_a_stage(
    probe: Callable[..., Any], tmp_path: Path
) -> None:
    """As one does that the kernel kills while it imports."""
    with WarmWorker(tmp_path / "stand-by") as stand_by:
        warm = stand_by.living().process
        warm.send_signal(signal.SIGSTOP)
        killer = threading.Timer(0.3, os.kill, (warm.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(StageKilled, match=r"killed by SIGKILL .*stand-by"):
            probe("fine", stand_by)
        killer.join()
        assert stand_by.living().process is not warm


def test_with_a_gpu_each_stage_has_a_process_that_stood_by(probe: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "more"
    (folder / "sitecustomize.py").write_text(CUSTOMIZE.format(folder=str(folder), can_fork=False))
    with WarmWorker(tmp_path / "stand-by") as stand_by:
        for _ in range(2):
            waiting = stand_by.living().process.pid
            assert probe("fine", stand_by)[0].facts["metrics"]["pid"] == waiting
        with pytest.raises(StageKilled, match="killed by SIGKILL"):
            probe("die", stand_by)


@pytest.mark.usefixtures("probe")
def test_what_stands_by_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from flows.run.child import WarmWorker\n"
        "with WarmWorker(Path(sys.argv[1])) as s: print(s.living().process.pid, flush=True); signal.pause()"
    )
    _ends_with_its_parent(code, str(tmp_path / "log"))


def _ends_with_its_parent(code: str, *arguments: str) -> None:
    """`code` prints the pid of a process that it started; kill it and see that one end."""
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, cwd=root)
    assert parent.stdout is not None
    with parent.stdout as stdout:
        watched = psutil.Process(int(stdout.readline()))
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs([watched], timeout=seconds(30))
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
