"""MLflow in an environment of its own: its server on loopback, over a SQLite of registered models."""

from __future__ import annotations

import socket
import subprocess
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

MLFLOW = "mlflow==3.17.0"
FILL = """
import sys
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
store = SqlAlchemyStore(sys.argv[1])
for number in range(int(sys.argv[2])):
    store.create_registered_model(f"model-{number:05}")
"""


def installed(folder: Path) -> Path:
    """The interpreter of a new environment under `folder` that has MLflow."""
    python = folder / "venv" / "bin" / "python"
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", MLFLOW], check=True)
    return python


def environment(python: Path) -> dict[str, str]:
    """Of its processes: nothing of ours, and no telemetry."""
    silent = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    return {"PATH": f"{python.parent}:/usr/bin:/bin", **silent}


def filled(python: Path, folder: Path, count: int) -> str:
    """The URL of a new SQLite under `folder` with so many registered models, `model-00000` and on."""
    database = f"sqlite:///{folder}/mlflow.db"
    subprocess.run([python, "-c", FILL, database, str(count)], check=True, env=environment(python))
    return database


@contextmanager
def served(python: Path, database: str) -> Iterator[str]:
    """The URL of MLflow's own server on it, with one worker."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command: list[str | Path] = [
        python,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        database,
        "--workers",
        "1",
    ]
    command += ["--host", "127.0.0.1", "--port", port]
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment(python), stdout=silent, stderr=silent) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(lambda: httpx.get(f"{url}/health").status_code == 200)
            yield url
        finally:
            for child in psutil.Process(server.pid).children(recursive=True):
                child.terminate()
            server.terminate()


def _wait(answers: Callable[[], bool]) -> None:
    for _ in range(240):
        try:
            if answers():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise TimeoutError("MLflow does not answer")
