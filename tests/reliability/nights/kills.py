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
    """Kills in a thread of its own until `count` are done. `draw` decides whom and when.

    The second half of a night does not get ahead of the kills: they come early where it is quicker than was
    thought, so that all fall into it.
    """

    world: World
    count: int
    draw: random.Random
    between: tuple[float, float]
    """Seconds between two kills, at least and at most."""
    begins: datetime
    runs: int
    """Of the whole night."""
    killed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._over = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return self.killed.total() >= self.count

    def hears(self, over: int) -> None:
        """So many runs of the night are over."""
        self._over = over

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        self._ending.wait(max(0.0, self.begins.timestamp() - time.time()))
        while not self.done and self._waited():
            kind = self.draw.choice(KINDS)
            with suppress(ProcessLookupError):
                if (pid := self._one(kind)) is not None:
                    os.kill(pid, signal.SIGKILL)
                    self.killed[kind] += 1

    def _waited(self) -> bool:
        """Until the next kill; whether there is one."""
        ends = time.monotonic() + self.draw.uniform(*self.between)
        while (left := ends - time.monotonic()) > 0:
            if self._ending.wait(min(left, 1.0)):
                return False
            if self._late():
                break
        return True

    def _late(self) -> bool:
        """Whether the runs that are over, and one more, are a larger part of all than the kills are."""
        return self._over >= self.runs / 2 and self.killed.total() * self.runs < (self._over + 1) * self.count

    def _one(self, kind: str) -> int | None:
        if kind == "flow":
            flows = sorted(process.pid for process in self.world.flows())
            return self.draw.choice(flows) if flows else None
        program = self.world.program("server" if kind == "server" else self.draw.choice(WORKERS))
        return program.pid if program.poll() is None else None  # dead already: no kill to count
