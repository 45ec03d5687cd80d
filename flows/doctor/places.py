"""This machine and the home: arithmetic, memory, disk, ports, GPU, the registry and its store."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from flows.doctor.finding import SET_UP, Finding
from flows.formatting import size
from flows.planning.machine import Machine
from flows.run.child import child_environment
from flows.settings import Settings
from registry.artifacts import FileEntry
from registry.db import tables as schema
from registry.db.engine import Database
from registry.errors import RegistryError
from registry.store.store import Store
from stages.arithmetic import machine_speed
from stages.errors import StageError

WIDTH = 576, 1536
"""Inputs and outputs of the product that is timed: a layer of a 135M model."""
PROBE_BYTES = 64_000_000
LITTLE_MEMORY, LITTLE_DISK, NO_DISK = 4_000_000_000, 10_000_000_000, 1_000_000_000
API_PORT = 8700
STORE_SECONDS = 15.0
"""With the loading of what speaks to it, which alone takes 6 s on a busy machine."""


def arithmetic(settings: Settings) -> Finding:
    """What `compute_dtype: auto` means here, and how that was found."""
    try:
        speed = machine_speed(*WIDTH, settings.cache_folder, child_environment())
    except StageError as error:
        return Finding("arithmetic", "fail", str(error), SET_UP)
    rates = f"float32 {speed.float32.overall / 1e9:.0f}, bfloat16 {speed.bfloat16.overall / 1e9:.0f} GFLOP/s"
    where = "GPU" if speed.device == "cuda" else f"{speed.processor}, one core"
    return Finding("arithmetic", "ok", f"auto means {speed.compute_dtype} ({where}: {rates})")


def memory(here: Machine) -> Finding:
    """Free memory, within the container's limit."""
    figures = f"{size(here.memory_available)} free, {here.cpu_count} cores"
    if here.memory_available < LITTLE_MEMORY:
        return Finding("memory", "warn", figures, "`tuneline check RECIPE` says what a recipe needs")
    return Finding("memory", "ok", figures)


def disk(settings: Settings) -> Finding:
    """Room in the home, whether it can be written, and how fast."""
    root = settings.root
    folder = next(path for path in (root, *root.parents) if path.exists())
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tuneline-doctor-") as file:
            probe = os.urandom(1_000_000) * max(1, min(PROBE_BYTES, free // 4) // 1_000_000)
            began = time.monotonic()
            file.write(probe)
            file.flush()
            os.fsync(file.fileno())
            rate = len(probe) / (time.monotonic() - began)
    except OSError as error:
        return Finding(
            "disk", "fail", f"{folder} cannot be written: {error}", "repair it, or set TUNELINE_HOME"
        )
    figures = f"{size(free)} free in {folder}, written at {size(int(rate))}/s"
    if free < LITTLE_DISK:
        remedy = "`tuneline artifacts gc` says what could go; or set TUNELINE_HOME to a larger disk"
        return Finding("disk", "fail" if free < NO_DISK else "warn", figures, remedy)
    return Finding("disk", "ok", figures)


def ports() -> Finding:
    """Whether this machine's own address can be listened on, and whether `tuneline api` finds its port."""
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError as error:
        return Finding("ports", "fail", f"cannot listen on 127.0.0.1: {error}", "look at the firewall")
    try:
        with socket.create_server(("127.0.0.1", API_PORT)):
            return Finding("ports", "ok", f"listening on 127.0.0.1 works; {API_PORT} is free")
    except OSError as error:
        return Finding("ports", "warn", f"port {API_PORT}: {error.strerror}", "tuneline api --port 0")


def gpu(here: Machine) -> Finding:
    """The GPUs that the driver shows."""
    if here.cuda:
        names = ", ".join(f"{name} with {size(total)}" for name, total in here.cuda)
        return Finding("gpu", "ok", f"{names}; driver {_driver()}")
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "ok", "none (no nvidia-smi); everything is computed on the processor")
    return Finding("gpu", "warn", "nvidia-smi shows no GPU", "run nvidia-smi: is the driver loaded?")


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not known"
    return done.stdout.split("\n")[0].strip()


def registry(settings: Settings) -> Finding:
    """The registry's schema; nothing is upgraded or made."""
    if settings.database_url is not None:
        return _database(settings.database_url)
    file = settings.root / "registry.db"
    if not file.exists():
        return Finding("registry", "ok", f"none yet in {settings.root}; the first run makes it")
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            (version,) = connection.execute("SELECT version FROM schema_version").fetchone()
            (count,) = connection.execute("SELECT count(*) FROM artifacts").fetchone()
        finally:
            connection.close()
    except (sqlite3.Error, TypeError, OSError) as error:
        return Finding("registry", "fail", f"{file} cannot be read: {error}", "restore it from a backup")
    return _of_version(f"{file}: schema {version}, {count} artifacts", version)


def _database(url: str) -> Finding:
    try:
        version = Database.version_at(url)
    except RegistryError as error:
        return Finding("registry", "fail", str(error), "start the database, or correct TUNELINE_DATABASE_URL")
    if version is None:
        return Finding("registry", "ok", "the database answers and is empty; the first run makes the schema")
    return _of_version(f"the database of TUNELINE_DATABASE_URL: schema {version}", version)


def _of_version(database: str, version: int) -> Finding:
    if version > schema.VERSION:
        return Finding(
            "registry", "fail", database, f"a newer Tuneline wrote it; this one knows {schema.VERSION}"
        )
    if version < schema.VERSION:
        return Finding(
            "registry", "warn", database, f"the next use upgrades it to {schema.VERSION}, with a backup"
        )
    return Finding("registry", "ok", database)


def store(settings: Settings) -> Finding:
    """Whether files can be put into the content store."""
    if settings.store_url is not None:
        return _elsewhere(settings.store_url)
    folder: Path = settings.root / "blobs"
    if not settings.root.exists():
        return Finding("store", "ok", "none yet; the first run makes it")
    try:
        with tempfile.NamedTemporaryFile(dir=folder if folder.exists() else settings.root):
            return Finding("store", "ok", f"{folder} can be written")
    except OSError as error:
        return Finding("store", "fail", f"{folder}: {error}", "let this user write there")


def _elsewhere(url: str) -> Finding:
    """Ask the store for what it does not have; one that gives no answer in time is not waited for."""
    answers = list[RegistryError | None]()

    def ask() -> None:
        with tempfile.TemporaryDirectory(prefix="tuneline-doctor-") as home:
            try:
                store = Store(Path(home), lambda _: None, url)
                store.missing([FileEntry(sha256="0" * 64, size=0)])
                store.close()
                answers.append(None)
            except RegistryError as error:
                answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(STORE_SECONDS)
    mend = "correct TUNELINE_STORE_URL, or what it needs of AWS_*"
    if not answers:
        return Finding("store", "warn", f"no answer in {STORE_SECONDS:g} s; not known whether it works", mend)
    if answers[0] is not None:
        return Finding("store", "fail", str(answers[0]), mend)
    return Finding("store", "ok", "the store of TUNELINE_STORE_URL answers")
