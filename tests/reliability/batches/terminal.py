"""Real commands in one home, shown as a terminal would."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.seconds import seconds


class Terminal:
    """Types commands of `tuneline` in one folder, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self._command = str(Path(sys.executable).with_name("tuneline"))

    def type(self, *words: str, expected: int = 0, shown: bool = True) -> str:
        """What the command printed. Ends the drill where its exit code is another than `expected`."""
        print(f"$ tuneline {shlex.join(words)}", flush=True)
        done = self._run(words)
        print(done.stdout if shown else "…\n", end="", flush=True)
        if done.returncode != expected:
            sys.exit(
                f"`tuneline {shlex.join(words)}` in {self.folder}: expected exit code {expected}, "
                f"found {done.returncode}\n{done.stderr[-3000:]}"
            )
        return done.stdout

    def ask(self, *words: str) -> Any:
        """The JSON document of a command that is not shown."""
        done = self._run((*words, "--json"))
        if done.returncode > 1:
            sys.exit(f"`tuneline {shlex.join(words)}`: exit code {done.returncode}\n{done.stderr[-3000:]}")
        return json.loads(done.stdout)

    def _run(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._command, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds(3600),
            env={**os.environ, "TUNELINE_HOME": str(self.home)},
        )
