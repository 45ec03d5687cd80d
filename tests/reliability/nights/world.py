"""PostgreSQL, an S3 server, a Prefect server, two workers with homes of their own, `tuneline ui`; all real.

What ends is started again, as an init system would.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from registry import Registry
from tests.registry.servers import ObjectStore, PostgreSQL
from tests.seconds import seconds

CHECKOUT = Path(__file__).resolve().parents[3]
PREFECT = str(Path(sys.executable).with_name("prefect"))
MARK = "TUNELINE_NIGHT"
"""Variable in the environment of all that a world started, and of what that started."""
WORKERS = ("worker-1", "worker-2")
PAUSE_SECONDS = 0.5


@dataclass
class World:
    """A registry on servers, and who works on it. `restarts`: how often each program was started again."""

    folder: Path
    postgresql: PostgreSQL
    store: ObjectStore
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    restarts: dict[str, int] = field(default_factory=dict)
    _programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.database_url, self.store_url = self.postgresql.fresh(), self.store.fresh()
        # one for all, or no machine would trust what another has decided
        self._signing_key = self.folder / "signing-key.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._signing_key.write_bytes(key.private_bytes(*form))
        self._signing_key.chmod(0o600)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        url = f"http://127.0.0.1:{self.port}/api"
        self.prefect = httpx.Client(base_url=url, trust_env=False, timeout=seconds(30))
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def home(self, who: str) -> Path:
        return self.folder / who

    def environment(self, who: str) -> dict[str, str]:
        """Of whoever works in the home of that name."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {
            **kept,
            **self.store.environment(),
            MARK: self.mark,
            "TUNELINE_HOME": str(self.home(who)),
            "TUNELINE_DATABASE_URL": self.database_url,
            "TUNELINE_STORE_URL": self.store_url,
            "TUNELINE_SIGNING_KEY": str(self._signing_key),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_HOME": str(self.folder / f"{who}-prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
        }

    def tuneline(self, *words: str, who: str = "operator", codes: tuple[int, ...] = (0,)) -> Any:
        """What a command prints as JSON, in the operator's home or a worker's."""
        command = [sys.executable, "-m", "flows.cli", *words, "--json"]
        done = subprocess.run(
            command, env=self.environment(who), cwd=CHECKOUT, capture_output=True, timeout=seconds(600)
        )
        if done.returncode not in codes:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}: {done.stderr.decode()[-3000:]}")
        return json.loads(done.stdout)

    def registry(self) -> Registry:
        """The registry, as the operator opens it."""
        home = self.home("operator")
        return Registry.open(home, self.database_url, self.store_url, signing_key=self._signing_key)

    def processes(self) -> list[psutil.Process]:
        """All that live of this world."""
        living = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    living.append(process)
        return living

    def flows(self) -> list[psutil.Process]:
        """The processes of flow runs, which a worker starts."""
        return [process for process in self.processes() if _is_flow(process)]

    def program(self, name: str) -> subprocess.Popen[bytes]:
        return self._programs[name]

    def start(self) -> None:
        """Start everything; returns once Prefect answers."""
        self._start("server")
        deadline = time.monotonic() + seconds(120)
        while not self.answers():
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "server.log").read_text()[-3000:])
            time.sleep(PAUSE_SECONDS)
        for name in (*WORKERS, "operator"):
            self._start(name)
        self._keeper.start()

    def answers(self) -> bool:
        """Whether Prefect is well."""
        try:
            return self.prefect.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End the programs, once flow runs have ended that have nothing to do any more."""
        psutil.wait_procs(self.flows(), timeout=seconds(60))
        self._ending.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for program in reversed(self._programs.values()):
            program.kill()  # a worker that is asked first waits for what Prefect may want of it
            program.wait()
        self.prefect.close()

    def _start(self, name: str) -> None:
        options = ("--pool", "tuneline", "--type", "process", "--name", name, "--limit", "1")
        command = [PREFECT, "worker", "start", *options]
        if name == "server":
            command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        elif name == "operator":  # the pages, which tell Prefect of schedules that it does not know
            command = [sys.executable, "-m", "flows.cli", "ui", "--json", "--port", "0"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._programs[name] = subprocess.Popen(
                command, env=self.environment(name), cwd=CHECKOUT, stdout=log, stderr=log
            )

    def _keep(self) -> None:
        while not self._ending.wait(PAUSE_SECONDS):
            for name, process in list(self._programs.items()):
                if process.poll() is not None:
                    self.restarts[name] = self.restarts.get(name, 0) + 1
                    self._start(name)


def _is_flow(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(word.startswith(("prefect.engine", "prefect.flow_engine")) for word in process.cmdline())
    return False


@contextmanager
def running(folder: Path, postgresql: PostgreSQL, store: ObjectStore) -> Iterator[World]:
    """A world that ends with the block, whatever happens in it."""
    folder.mkdir(parents=True)
    world = World(folder, postgresql, store)
    try:
        world.start()
        yield world
    finally:
        world.stop()
        _, staying = psutil.wait_procs(world.processes(), timeout=seconds(60))
        for process in staying:
            process.kill()
    if staying:
        raise AssertionError(f"left behind: {[process.pid for process in staying]}")
