"""A trial of `fuzz`: what was asked, what was found, and what has to hold once everybody is done."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil

from registry.processes import ProcessId
from registry.tenancy.budgets import Ask
from tests.reliability.fuzz_requests import CONTEXT
from tests.seconds import seconds
from tests.serving.gateway.live_gateway import Gateway, until

GROWTH, GROWTH_BYTES = 1.15, 48 << 20
"""The engine's memory at the end against that after a third of the requests."""
PATIENCE = seconds(10.0)
"""Seconds until all is settled; until then the engine may work for clients that have vanished."""
EXAMPLES = 2
"""Findings that are shown of each kind."""


@dataclass
class Trial:
    """What was asked, and what came of it."""

    gateway: Gateway
    vllm: bool
    left: int
    draw: random.Random
    receipts: dict[str, str]
    """Tenant → the artifact that has to answer it."""
    counts: Counter[str] = field(default_factory=Counter)
    found: dict[str, list[str]] = field(default_factory=dict)
    used: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Request id → what its client was told that it used."""
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Requests left, and bytes of the engine's processes."""
    requests: int = 0

    def finds(self, kind: str, what: str) -> None:
        """Write a finding down."""
        self.counts["findings"] += 1
        shown = self.found.setdefault(f"{kind}: {re.sub('[0-9]+', '0', what)[:60]}", [])
        if len(shown) < EXAMPLES:
            shown.append(what)

    def headers(self, tenant: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.gateway.keys[tenant]}", "content-type": "application/json"}


def engine_bytes(gateway: Gateway) -> int:
    """Resident memory of all engine processes."""
    total = 0
    for process in gateway.processes():
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss if process.pid != gateway.process.pid else 0
    return total


def afterwards(trial: Trial) -> None:
    """What has to hold once everybody is done."""
    gateway = trial.gateway
    tenants = list(trial.receipts)
    try:
        until(
            lambda: gateway.number("tuneline_engine_requests") == 0, "the engine works on nothing", PATIENCE
        )
        until(lambda: all(gateway.spent(one)[1] == 0 for one in tenants), "nothing stays reserved", PATIENCE)
    except AssertionError as error:
        trial.finds("left over", str(error))
    if restarts := gateway.number("tuneline_engine_restarts_total"):
        trial.finds("engine", f"started again {restarts:g} times")
    third = [size for left, size in trial.memory if left <= trial.requests * 2 / 3]
    if third and third[-1] > third[0] * GROWTH and third[-1] - third[0] > GROWTH_BYTES:
        trial.finds("memory", f"from {third[0] >> 20} to {third[-1] >> 20} MiB in the last two thirds")
    ledger(trial)
    if not trial.counts["200"] or not trial.counts["400"] or not trial.counts["canaries"]:
        trial.finds("trial", f"it has tried nothing: {dict(trial.counts)}")


def ledger(trial: Trial) -> None:
    """Each budget has what the engine counted, which is what its clients were told."""
    lines = [json.loads(line) for line in trial.gateway.log.read_text().splitlines()]
    charged: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for line in lines:
        if "trace" in line:
            trial.finds("gateway", line["trace"][-300:])
        if line.get("message") != "request" or line["tenant"] not in trial.receipts:
            continue
        if line["route"] == "/v1/models":
            continue
        said = line["prompt_tokens"], line["completion_tokens"]
        if None not in said:
            charged[line["tenant"]] += sum(said)
        elif line["status"] in (200, 499):
            unknown[line["tenant"]] += 1
        if (told := trial.used.get(line["id"], said)) != said:
            trial.finds("ledger", f"{line['id']}: the client was told {told}, the log has {said}")
    for tenant in trial.receipts:
        used, least = trial.gateway.spent(tenant)[0], charged[tenant]
        most = least + unknown[tenant] * CONTEXT
        if not least <= used <= most or (unknown[tenant] and not tenant.startswith("gone")):
            trial.finds("ledger", f"{tenant}: {used} tokens charged, expected {least} to {most}")


def plant(trial: Trial) -> None:
    """Damage to be found: a dead engine, a swapped adapter, a wrong charge, one that is not settled."""
    gateway = trial.gateway
    adapters = gateway.populated.adapters
    gateway.move("team/canary1", adapters[2].peft if trial.vllm else adapters[2].gguf)
    day, budgets = time.strftime("%Y-%m-%d", time.gmtime()), gateway.registry.budgets
    other = budgets.open_gateway("elsewhere", ProcessId(1, 0.0))
    budgets.reserve(other, [Ask("a" * 32, "odd", 7, 10**15, day), Ask("b" * 32, "canary2", 9, 10**15, day)])
    budgets.settle([("b" * 32, 9)])
    for process in gateway.processes():
        if any("serving.llama_cpp.server" in word or "EngineCore" in word for word in process.cmdline()):
            process.kill()
