"""What is asked its recorded questions: a gateway with one engine, and an adapter that a recipe made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.drill.processes import TUNELINE, Processes, Started, end, free_port
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import until

TENANT, CHANNEL = "recorded", "pico/tenant"
BASE = "pico-0-q8_0@1"
PER_HOUR = 36000
"""Questions: the most there can be, ten a second."""


class Recorded:
    """`processes` starts things in the environment of a home in which `pico-tenant` ran."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._home, self._processes, self._file = folder / "home", processes, folder / "recorded.yaml"
        operations = {"port": free_port()}
        self.operations = f"127.0.0.1:{operations['port']}"
        engine = {"model": BASE, "engine": "llama.cpp", "context_length": 256, "threads": 1, "adapters": 1}
        gateway: dict[str, Any] = {"gateway": {"port": 0}, "operations": operations, "engines": [engine]}
        self._file.write_text(yaml.safe_dump({**gateway, "served": {"per_hour": PER_HOUR}}))
        self._key = processes.tuneline("tenants", "add", TENANT, CHANNEL)["key"]
        self._gateway = self._start()

    def _start(self) -> Started:
        """Start the gateway, and have its tenant ask, which loads the adapter."""
        gateway = self._processes.start("recorded", *TUNELINE, "serve", str(self._file), "--json")
        question = [{"role": "user", "content": "Who are you?"}]
        body = {"model": CHANNEL, "messages": question, "max_tokens": 1}
        header = {"authorization": f"Bearer {self._key}"}
        address = f"{gateway.said['url']}/chat/completions"
        httpx.post(address, headers=header, json=body, timeout=seconds(60)).raise_for_status()
        return gateway

    def restart(self) -> None:
        """As the runbook says: the engine loads its files anew."""
        end(self._gateway.process)
        self._gateway = self._start()

    def answered(self, result: str) -> bool:
        """Whether the gateway that runs now got such an answer."""
        counted = rf'^tuneline_gateway_served_checks_total{{.*result="{result}".*}} [1-9]'
        metrics = httpx.get(f"http://{self.operations}/metrics").raise_for_status().text
        return re.search(counted, metrics, re.M) is not None

    @contextmanager
    def scaled(self) -> Iterator[None]:
        """The adapter is served with a third of its scale meanwhile, since its file was written over."""
        from tests.e2e.served_faults import other_scale

        files = self._processes.tuneline("artifacts", "show", CHANNEL)["files"]
        blob = next(self._home.rglob(files["model.gguf"]["sha256"]))
        before, other = blob.read_bytes(), self._file.with_suffix(".gguf")
        other_scale(blob, other)
        blob.chmod(0o644)
        blob.write_bytes(other.read_bytes())
        self.restart()
        yield
        blob.write_bytes(before)
        self.restart()
        until(lambda: self.answered("as recorded"), "the adapter answers as recorded", seconds(60))
