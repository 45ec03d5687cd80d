"""What serves: a gateway with two engines over a registry in PostgreSQL, and those who ask it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.deploy.drill.processes import CHECKOUT, TUNELINE, Processes, Started
from tests.registry.servers import PostgreSQL
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import marked
from tests.serving.populated_registry import kept_registry

WAIVED = ("--waive", "--reason", "drill", "--who", "drill")
CHANNELS = {"a": "team/a", "b": "team/b", "whole": "team/whole", "small": "team/a"}
"""Tenant → its channel; `whole` has a model of its own, the others adapters over one base."""
LIMITS = {"small": ("--tokens-per-day", "1000")}


class Serving:
    """`processes` starts things in the environment of this registry."""

    def __init__(self, folder: Path, database: PostgreSQL, processes: Processes) -> None:
        self.folder, self.database, self.processes = folder, database, processes
        self.keys: dict[str, str] = {}
        self.numbers = itertools.count()
        made = kept_registry(CHECKOUT, folder / "home", 3)
        processes.tuneline("registry", "move")
        self.adapters = [adapter.gguf for adapter in made.adapters]
        self.whole = made.adapters[0].merged
        moves = {"team/a": self.adapters[0], "team/b": self.adapters[1], "team/whole": self.whole}
        for channel, artifact in moves.items():
            processes.tuneline("promote", artifact, channel, *WAIVED)
        for tenant, channel in CHANNELS.items():
            added = processes.tuneline("tenants", "add", tenant, channel, *LIMITS.get(tenant, ()))
            self.keys[tenant] = added["key"]
        tried = ("--canary", "30", "--shadow", "30", "--reason", "drill")
        processes.tuneline("channels", "rollout", "team/b", self.adapters[2], *tried)
        self.gateway = self._start()

    def _start(self) -> Started:
        """One engine has a single place for adapters, the other holds a whole model."""
        engine = {"engine": "llama.cpp", "context_length": 256, "threads": 1, "parallel": 1, "queue": 2}
        engines = [
            {**engine, "model": "pico-base@1", "adapters": 1},
            {**engine, "model": CHANNELS["whole"]},
        ]
        file, free = self.folder / "serve.yaml", {"port": 0}
        file.write_text(yaml.safe_dump({"gateway": free, "operations": free, "engines": engines}))
        mark = {"TEST_GATEWAY": str(self.folder)}
        return self.processes.start("gateway", *TUNELINE, "serve", str(file), "--json", **mark)

    @property
    def operations(self) -> str:
        """Where Prometheus scrapes the gateway."""
        return str(self.gateway.said["operations"]).removeprefix("http://")

    def engine_of_the_whole(self) -> psutil.Process | None:
        """The process that holds the whole model; None while there is none."""
        for process in marked(str(self.folder)):
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                # Its reaper's words hold the same, and more.
                if " -m serving.llama_cpp.server " in words and f"tuneline-{self.whole[:12]}" in words:
                    return process
        return None

    def ask(self, tenant: str, **more: Any) -> httpx.Response:
        """Let a tenant begin a conversation, of which a canary has some; returns once the answer is whole."""
        question = [{"role": "user", "content": f"Who are you, {next(self.numbers)}?"}]
        body = {"model": CHANNELS[tenant], "messages": question, "max_tokens": 8, **more}
        header = {"authorization": f"Bearer {self.keys[tenant]}"}
        address = f"{self.gateway.said['url']}/chat/completions"
        return httpx.post(address, headers=header, json=body, timeout=seconds(60))

    @contextmanager
    def asking(self, tenant: str, at_once: int, **more: Any) -> Iterator[None]:
        """Let a tenant ask again and again meanwhile, so many requests at once."""
        enough = threading.Event()

        def again() -> None:
            while not enough.wait(0.02):
                self.ask(tenant, **more)

        threads = [threading.Thread(target=again) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            enough.set()
            for thread in threads:
                thread.join()
