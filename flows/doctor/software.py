"""Python, the packages, Prefect's server and vLLM's environment."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from flows.doctor.finding import LOCK, SET_UP, Finding
from flows.installation import is_light
from serving.errors import EngineMissing
from serving.vllm.launch import VARIABLE, python_with_vllm

START_SECONDS = 300


def python() -> Finding:
    """Whether this Python is one that Tuneline is made for."""
    known = metadata.metadata("tuneline")
    wanted, have = known["Requires-Python"] or "", sys.version.split()[0]
    versions = f"tuneline {known['Version']} on Python {have}, {sys.executable}"
    if have in SpecifierSet(wanted):
        return Finding("python", "ok", versions)
    return Finding("python", "fail", versions, f"needs Python {wanted}: install it with one of these")


def packages(lock: Path = LOCK) -> Finding:
    """What Tuneline asks for is installed in a version that it takes; and how far that is from the lock."""
    if is_light():
        message = "the light installation, for gates and the registry; a run needs all packages"
        return Finding("packages", "warn", message, SET_UP)
    if wrong := _unmet("tuneline"):
        return Finding("packages", "fail", "; ".join(wrong), SET_UP)
    if not lock.is_file():
        return Finding("packages", "ok", "all that tuneline asks for; no lock to compare with")
    other = [
        f"{name} {have or 'missing'} (locked {wanted})"
        for name, wanted in _locked(lock)
        if (have := _version(name)) != wanted and (have or "").partition("+")[0] != wanted
    ]
    if other:
        some = "; ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        return Finding("packages", "warn", f"not as locked: {some}", SET_UP)
    return Finding("packages", "ok", "every package as locked")


def _locked(lock: Path) -> list[tuple[str, str]]:
    """Name and version of each line that is for this Python and system."""
    locked: list[tuple[str, str]] = []
    for line in lock.read_text("utf-8").splitlines():
        if (text := line.partition("#")[0].strip()) and not text.startswith("-"):
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate():
                locked += [
                    (str(canonicalize_name(need.name)), specifier.version) for specifier in need.specifier
                ]
    return locked


def _version(name: str) -> str | None:
    try:
        return str(Version(metadata.version(name)))  # as pip writes it into a lock: v0.0.21 is 0.0.21
    except metadata.PackageNotFoundError:
        return None


def vllm() -> Finding:
    """vLLM's environment; only recipes that name the engine need it."""
    try:
        return Finding("vllm", "ok", python_with_vllm())
    except EngineMissing as error:
        if os.environ.get(VARIABLE):
            return Finding("vllm", "fail", str(error), f"correct or unset {VARIABLE}")
        return Finding("vllm", "ok", "not installed; only the engine vllm needs it (make vllm)")


APART = {"sqlalchemy": ("<2.1", "Prefect 3.8.8 schedules no run with it")}
"""What Prefect asks for allows and what yet does not work: package → the versions that do, and why."""


def prefect(start: bool) -> Finding:
    """Whether Prefect's packages fit each other, by their metadata; with `start`, whether its server answers.

    Its import alone takes longer than all else that is looked at.
    """
    if (version := _version("prefect")) is None:
        return Finding("prefect", "fail", "not installed", SET_UP)
    if wrong := [*_unmet("prefect"), *_apart()]:
        return Finding("prefect", "fail", f"{version}; {'; '.join(wrong)}", SET_UP)
    if not start:
        return Finding("prefect", "ok", f"{version}, with packages that fit it (--full starts its server)")
    with tempfile.TemporaryDirectory(prefix="tuneline-doctor-") as folder:
        seconds, last = _answers_after(Path(folder))
    if seconds is None:
        return Finding("prefect", "fail", f"{version}; its server did not answer: {last}", SET_UP)
    return Finding("prefect", "ok", f"{version}; the server answered after {seconds:.0f} s")


def _unmet(package: str) -> list[str]:
    """What `package` asks for and does not have."""
    wrong = []
    for text in metadata.requires(package) or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        have = _version(need.name)
        if have is None:
            wrong.append(f"{need.name} is not installed")
        elif not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} is {have}, wanted {need.specifier}")
    return wrong


def _apart() -> list[str]:
    """What is installed in a version that is known not to go with Prefect."""
    return [
        f"{name} is {have}, wanted {versions}: {why}"
        for name, (versions, why) in APART.items()
        if (have := _version(name)) is not None
        and not SpecifierSet(versions).contains(have, prereleases=True)
    ]


def _answers_after(home: Path) -> tuple[float | None, str]:
    """Seconds until a server on a new `home` answered, or None and its last words."""
    import httpx  # a gate is installed without it

    untracked = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    env = {**os.environ, **untracked, "PREFECT_HOME": str(home)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api/health"
    log, began = home / "server.log", time.monotonic()
    with log.open("wb") as output, subprocess.Popen(command, env=env, stdout=output, stderr=output) as server:
        try:
            while time.monotonic() - began < START_SECONDS:
                try:
                    httpx.get(url, timeout=5, trust_env=False).raise_for_status()
                    return time.monotonic() - began, ""
                # nobody tells when another process begins to listen; that it ended is told
                except httpx.HTTPError:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        server.wait(0.5)
                        break
        finally:
            server.terminate()
    lines = log.read_text("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no word")
    return None, f"{last} (waited {time.monotonic() - began:.0f} s)"
