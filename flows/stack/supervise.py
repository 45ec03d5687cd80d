"""Start supervisord, which starts again whatever ends; ask it, and ask each program whether it is well."""

from __future__ import annotations

import configparser
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import httpx
from supervisor.xmlrpc import SupervisorTransport

from flows.errors import Usage
from flows.stack.databases import write_private
from flows.stack.programs import Places, Program

LONGEST_WAIT = 180.0
"""Seconds for a program to become well; Prefect's first start, which makes its database, is the slowest."""

LATE = 30.0
"""Seconds after which a file that a program touches is too old; on a busy machine a look takes some."""


@dataclass(frozen=True)
class Standing:
    """How a program stands: supervisord's word for it, since when, and whether it answers."""

    name: str
    state: str
    seconds: float
    pid: int
    port: int | None
    well: bool


def configuration(places: Places, programs: Iterable[Program]) -> str:
    """supervisord's file: everything restarts, a little later each time; nothing starts by itself."""
    parser = configparser.RawConfigParser()
    folder = places.folder
    parser["unix_http_server"] = {"file": str(folder / "supervisor.sock"), "chmod": "0700"}
    parser["supervisord"] = {
        "logfile": str(folder / "logs" / "supervisord.log"),
        "pidfile": str(folder / "supervisord.pid"),
        "childlogdir": str(folder / "logs"),
    }
    factory = "supervisor.rpcinterface:make_main_rpcinterface"
    parser["rpcinterface:supervisor"] = {"supervisor.rpcinterface_factory": factory}
    for program in programs:
        parser[f"program:{program.name}"] = _section(folder, program)
    lines: list[str] = []
    for name in parser.sections():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in parser.items(name)), ""]
    return "\n".join(lines)


def _section(folder: Path, program: Program) -> dict[str, str]:
    section = {
        "command": shlex.join(program.command).replace("%", "%%"),
        "directory": str(folder),
        "autostart": "false",
        "autorestart": "true",
        "startretries": "1000",
        "startsecs": "1",
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopwaitsecs": "20",
        "redirect_stderr": "true",
        "stdout_logfile": str(folder / "logs" / f"{program.name}.log"),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "1",
    }
    if program.environment:
        pairs = (f'{name}="{value}"' for name, value in program.environment.items())
        section["environment"] = ",".join(pairs).replace("%", "%%")
    if program.user is not None:
        section["user"] = program.user
    if program.name == "postgresql":
        section["stopsignal"] = "INT"
        section["directory"] = str(folder / "postgresql")
    return section


class StackSupervisor:
    """The supervisord of one stack."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of supervisord. Raises OSError, HTTPException, Fault."""
        address = f"unix://{self._places.folder / 'supervisor.sock'}"
        # A transport for each: one whose request failed takes no other.
        with ServerProxy("http://127.0.0.1", SupervisorTransport(None, None, address)) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def runs(self) -> bool:
        """Whether there is one."""
        try:
            self._call("getState")
            return True
        except (OSError, HTTPException):
            return False

    def begin(self, programs: Sequence[Program]) -> None:
        """Start supervisord with these programs, none of which runs yet. Raises Usage."""
        file = self._places.folder / "supervisord.conf"
        write_private(file, configuration(self._places, programs))
        supervisord = Path(sys.executable).with_name("supervisord")
        done = subprocess.run([supervisord, "-c", file], capture_output=True, text=True)
        if done.returncode != 0:
            raise Usage(f"supervisord does not start: {(done.stderr or done.stdout).strip()}")
        end = time.monotonic() + LONGEST_WAIT
        while not self.runs():
            if time.monotonic() > end:
                raise Usage(f"supervisord does not answer; its log is in {self._places.folder / 'logs'}")
            time.sleep(0.1)

    def start(self, program: Program) -> None:
        """Start a program, and wait until it is well. Raises Usage naming its log."""
        try:
            self._call("startProcess", program.name, False)
        except Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise Usage(f"{program.name} does not start: {fault.faultString}") from None
        self.wait(program)

    def wait(self, program: Program, seconds: float = LONGEST_WAIT) -> None:
        """Wait until a program is well. Raises Usage naming its log."""
        end = time.monotonic() + seconds
        while not self.standing(program).well:
            if time.monotonic() > end:
                log = self._places.folder / "logs" / f"{program.name}.log"
                raise Usage(f"{program.name} was not ready within {seconds:.0f} s; its log: {log}")
            time.sleep(0.2)

    def standing(self, program: Program) -> Standing:
        """How the program stands now."""
        facts = self._call("getProcessInfo", program.name)
        since = float(facts["now"] - facts["start"]) if facts["statename"] == "RUNNING" else 0.0
        well = facts["statename"] == "RUNNING" and is_well(program, facts["start"])
        return Standing(program.name, facts["statename"], since, facts["pid"], program.port, well)

    def end(self) -> None:
        """Stop everything, and wait for it."""
        pid = int(self._call("getPID"))
        self._call("shutdown")
        end = time.monotonic() + LONGEST_WAIT
        while _is_alive(pid):
            if time.monotonic() > end:
                raise Usage(
                    f"supervisord (process {pid}) does not end; its log is in {self._places.folder}/logs"
                )
            time.sleep(0.1)


def is_well(program: Program, started: float = 0.0) -> bool:
    """Whether the program answers, or has shown that it works since it started (seconds since 1970)."""
    if program.heard is not None:
        return _was_heard(program.heard, program.name, started)
    if program.touched is not None:
        return _was_touched(program.touched, started)
    if program.well is not None:
        try:
            return httpx.get(program.well, timeout=2.0).status_code < 500
        except httpx.HTTPError:
            return False
    return program.port is not None and _is_listened_on(program.port)


def _is_listened_on(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0):
            return True
    except OSError:
        return False


def _was_heard(address: str, worker: str, started: float) -> bool:
    """Whether Prefect counts the worker as online, and not for a heartbeat of the one before it."""
    try:
        workers = httpx.post(address, json={}, timeout=2.0).raise_for_status().json()
    except httpx.HTTPError:
        return False
    return any(
        entry["name"] == worker
        and entry["status"] == "ONLINE"
        and datetime.fromisoformat(entry["last_heartbeat_time"]).timestamp() >= started
        for entry in workers
    )


def _was_touched(file: Path, started: float) -> bool:
    """Whether the program's work went well just now, and not that of the one before it."""
    try:
        touched = file.stat().st_mtime
    except OSError:
        return False
    return touched >= max(started, time.time() - LATE)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
