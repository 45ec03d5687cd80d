"""kill -9 of a worker, the Prefect server or a flow run, at random moments."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from tests.reliability.nights.world import WORKERS, World

KINDS = ("worker", "server", "flow")


@dataclass
class Killer:
    """Kills in a thread of its own until `count` are done. `draw` decides whom and when."""

    world: World
    count: int
    draw: random.Random
    between: tuple[float, float]
    """Seconds between two kills, at least and at most."""
    begins: datetime
    killed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return self.killed.total() >= self.count

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        self._ending.wait(max(0.0, self.begins.timestamp() - time.time()))
        while not self.done and not self._ending.wait(self.draw.uniform(*self.between)):
            kind = self.draw.choice(KINDS)
            with suppress(ProcessLookupError):
                if (pid := self._one(kind)) is not None:
                    os.kill(pid, signal.SIGKILL)
                    self.killed[kind] += 1

    def _one(self, kind: str) -> int | None:
        if kind == "flow":
            flows = sorted(process.pid for process in self.world.flows())
            return self.draw.choice(flows) if flows else None
        program = self.world.program("server" if kind == "server" else self.draw.choice(WORKERS))
        return program.pid if program.poll() is None else None  # dead already: no kill to count
