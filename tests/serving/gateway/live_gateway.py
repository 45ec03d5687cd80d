"""A real `tuneline serve` over a populated registry, its tenants, and the official client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from registry import Registry
from registry.tenancy.tenants import TenantLimits
from tests.seconds import seconds
from tests.serving.populated_registry import WAIVER, PopulatedRegistry

CHECKOUT = Path(__file__).resolve().parents[3]
LLAMA = {"engine": "llama.cpp", "model": "pico-base@1", "context_length": 256, "threads": 1}
ANSWER = {"max_tokens": 8, "temperature": 0}
SLOWEST = seconds(60.0)
"""Seconds that anything may take on a busy machine."""


@dataclass
class Gateway:
    """A running gateway; `tenant` makes tenants that it knows."""

    populated: PopulatedRegistry
    registry: Registry
    config: Path
    log: Path
    mark: str
    """In the environment of the gateway and of every process that comes of it."""
    process: subprocess.Popen[str]
    url: str
    operations: str
    keys: dict[str, str] = field(default_factory=dict)
    clients: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _kept: dict[str, openai.OpenAI] = field(default_factory=dict)

    def tenant(self, name: str, artifact: str | None, channel: str = "", **limits: Any) -> str:
        """Add a tenant, point its channel (default: `team/NAME`) to the artifact; returns its key."""
        channel = channel or f"team/{name}"
        if artifact is not None:
            self.move(channel, artifact)
        pinned = limits.pop("pinned", False)
        _, _, key = self.registry.tenants.add(name, channel, "tests", TenantLimits(**limits), pinned)
        self.keys[name] = key
        until(lambda: self.get("/models", key).status_code == 200, "the gateway knows the tenant")
        return key

    def move(self, channel: str, artifact: str) -> None:
        """As `tuneline promote --waive` does."""
        standing = self.registry.channels.get(channel)
        generation = standing.generation if standing else 0
        self.registry.channels.move(channel, artifact, generation, waiver=WAIVER)

    def get(self, path: str, key: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"authorization": f"Bearer {key}"}, timeout=SLOWEST)

    def client(self, key: str) -> openai.OpenAI:
        """OpenAI's own; one for each key, closed with the gateway."""
        if key not in self._kept:
            made = openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=SLOWEST)
            self._kept[key] = self.clients.enter_context(made)
        return self._kept[key]

    def ask(self, name: str, question: str = "Who are you?", **more: Any) -> tuple[str, str]:
        """A tenant's answer, and the artifact in its receipt."""
        messages = [{"role": "user", "content": question}]
        body: dict[str, Any] = {"model": f"team/{name}", "messages": messages, **ANSWER, **more}
        asked = self.client(self.keys[name]).chat.completions.with_raw_response
        raw = asked.create(**body)
        assert len(raw.headers["x-request-id"]) == 32
        return raw.parse().choices[0].message.content or "", raw.headers["x-tuneline-artifact"]

    def spent(self, name: str) -> tuple[int, int]:
        """Tokens used and reserved today."""
        return self.registry.budgets.spent(name, f"{datetime.now(UTC):%Y-%m-%d}")

    def settled(self, name: str) -> int:
        """Tokens used today, once nothing is reserved."""
        until(lambda: self.spent(name)[1] == 0 and self.spent(name)[0] > 0, "the budget is settled")
        return self.spent(name)[0]

    def number(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 where there is none."""
        text = httpx.get(f"{self.operations}/metrics", timeout=SLOWEST).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def processes(self) -> list[psutil.Process]:
        """The gateway and all that came of it and lives."""
        return marked(self.mark)

    def engines(self) -> list[psutil.Process]:
        """Its engines' processes."""
        return [one for one in self.processes() if "serving.llama_cpp.server" in " ".join(_words(one))]


def until(true: Callable[[], object], what: str, seconds: float = SLOWEST) -> float:
    """Wait for it; returns the seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def marked(mark: str) -> list[psutil.Process]:
    """Living processes whose environment carries the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TEST_GATEWAY") == mark and process.status() != "zombie":
                found.append(process)
    return found


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def start(config: Path, home: Path, log: Path, mark: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """`tuneline serve`, and what it says once it listens."""
    environment = {k: v for k, v in os.environ.items() if k != "TEST_RUN"}
    environment |= {"TUNELINE_HOME": str(home), "TEST_GATEWAY": mark}
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", str(config), "--json"],
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=CHECKOUT, env=environment,
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.stdout.close()
        process.wait()
        raise AssertionError(f"the gateway did not start: {log.read_text()[-3000:]}")
    return process, json.loads(line)


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """End it; returns its exit code."""
    if process.poll() is None:
        process.send_signal(number)
    assert process.stdout is not None
    process.stdout.close()
    return process.wait(SLOWEST)


@contextlib.contextmanager
def running(
    populated: PopulatedRegistry,
    folder: Path,
    engines: Sequence[dict[str, Any]],
    name: str = "gateway",
    **more: Any,
) -> Iterator[Gateway]:
    """A gateway inside the block; afterwards nothing of it is left, or that is an error."""
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    free = {"port": 0}
    config.write_text(yaml.safe_dump({"gateway": free, "operations": free, "engines": list(engines)} | more))
    mark = f"{os.getpid()}-{folder.name}-{name}"
    process, said = start(config, populated.home, log, mark)
    try:
        with Registry.open(populated.home) as registry, contextlib.ExitStack() as clients:
            yield Gateway(
                populated,
                registry,
                config,
                log,
                mark,
                process,
                said["url"],
                said["operations"],
                clients=clients,
            )
    finally:
        stop(process)
        left = marked(mark)
        _, staying = psutil.wait_procs(left, timeout=seconds(15))
        for one in staying:
            one.kill()
    assert not staying, [_words(one) for one in staying]
