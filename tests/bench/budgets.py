"""What reserving tokens adds to a request where gateways share budgets: `python -m tests.bench.budgets`.

So many gateways' ledgers, each a process, on one PostgreSQL (`--database sqlite`: one file), each asked at a
steady rate whether it was answered or not. Either all requests are of one busy tenant, which draw on what its
gateways have leased; or each is of another tenant, none of which asks often enough for a lease, so that it
waits for a transaction of its own. The time is that from a request's asking until it may go to an engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from registry import Registry
from registry.tenancy.tenants import TenantLimits
from serving.gateway.budgets.lease import IDLE_SECONDS
from serving.gateway.budgets.ledger import Ledger
from tests.bench.results import ROOT, Report
from tests.registry.servers import postgresql

LIMIT, TOKENS, USED = 10**12, 500, 200
ANSWER_SECONDS = 0.5
WARM_SECONDS = 10.0
"""Not measured: connections are opened, and the first leases wait behind all gateways' first requests."""
ASIDE = 1.5
"""Tenants come round again after so many times the seconds in which a lease goes idle."""


def tenant_names(count: int) -> Callable[[int], str]:
    """The tenant of each request."""
    return lambda number: f"t{number % count}"


async def ask(ledger: Ledger, rate: float, seconds: float, name: Callable[[int], str]) -> list[float]:
    """Seconds that each reservation took, in an open loop."""
    loop, took = asyncio.get_running_loop(), []
    began = time.perf_counter()

    async def one(number: int, due: float) -> None:
        asked = time.perf_counter()
        reservation = await ledger.reserve(name(number), TOKENS, LIMIT)
        if due >= WARM_SECONDS:
            took.append(time.perf_counter() - asked)
        loop.call_later(ANSWER_SECONDS, ledger.settle, reservation, USED)

    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * (seconds + WARM_SECONDS))):
            due = number / rate
            await asyncio.sleep(max(0.0, due - (time.perf_counter() - began)))
            tasks.create_task(one(number, due))
    await asyncio.sleep(2 * ANSWER_SECONDS)
    return took


def gateway(home: str, url: str, tenants: int, rate: float, seconds: float) -> None:
    """One of the processes: says that it is ready, asks once it is told to, and prints the times."""
    with Registry.open(Path(home), url or None) as registry:
        ledger = Ledger(registry)
        ledger.start()
        print("ready", flush=True)
        sys.stdin.readline()
        took = asyncio.run(ask(ledger, rate, seconds, tenant_names(tenants)))
        ledger.stop()
    print(json.dumps(took), flush=True)


@contextmanager
def database(kind: str) -> Iterator[str]:
    """The URL of an empty one; empty for the file in a registry's home."""
    if kind == "sqlite":
        yield ""
        return
    with postgresql() as server:
        yield server.fresh()


def measure(given: argparse.Namespace, tenants: int) -> tuple[list[float], int]:
    """Seconds of all reservations, and the tokens that were counted."""
    with tempfile.TemporaryDirectory() as home, database(given.database) as url:
        with Registry.open(Path(home), url or None) as registry:
            for number in range(tenants):
                limits = TenantLimits(tokens_per_day=LIMIT)
                registry.tenants.add(f"t{number}", "team/prod", "bench", limits)
        words = [home, url, str(tenants), str(given.rate), str(given.seconds)]
        command = [sys.executable, "-m", "tests.bench.budgets", "--gateway", *words]
        processes = [
            subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) for _ in range(given.gateways)
        ]
        took = _run(processes)
        with Registry.open(Path(home), url or None) as registry, registry.database.read() as connection:
            counted = "SELECT sum(used), sum(reserved) FROM budgets"
            used, reserved = connection.exec_driver_sql(counted).one()
    assert reserved == 0, "a ledger that was stopped has left something"
    return took, int(used)


def _run(processes: list[subprocess.Popen[str]]) -> list[float]:
    """All at once; the seconds that all found."""
    took: list[float] = []
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0
        took += json.loads(said)
    return took


def row(report: Report, given: argparse.Namespace, requests: str, tenants: int) -> None:
    took, used = measure(given, tenants)
    cuts = quantiles(took, n=1000)
    expected = USED * given.gateways * int(given.rate * (given.seconds + WARM_SECONDS))
    assert used == expected, f"{used} tokens counted, expected {expected}"
    cells: dict[str, Any] = {
        "requests": requests,
        "p50 (ms)": 1e3 * cuts[499],
        "p99 (ms)": 1e3 * cuts[989],
        "p99.9 (ms)": 1e3 * cuts[998],
        "requests measured": len(took),
    }
    names = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
    report.row(
        f"{given.gateways} gateways on one {names[given.database]}, {given.rate:,.0f} requests/s each", cells
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gateways", type=int, default=10)
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second of each gateway")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--gateway", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.gateway:
        home, url, tenants, rate, seconds = given.gateway
        gateway(home, url, int(tenants), float(rate), float(seconds))
        return 0
    with Report("budgets", "sqlalchemy", "psycopg") as report:
        row(report, given, "of one tenant, from leases", 1)
        seldom = int(ASIDE * IDLE_SECONDS * given.rate)
        row(report, given, "each of another tenant, a transaction each", seldom)
    return 0


if __name__ == "__main__":
    sys.exit(main())
