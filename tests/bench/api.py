"""Answers of the HTTP API per second, and how long one takes: `python -m tests.bench.api`.

A registry of 10,000 artifacts, served by `tuneline api` on SQLite; random artifacts, HTTP on loopback, the
client on the same machine. Latency is one connection that asks again when it was answered; the rate is of
several connections at once. The first requests of each kind are not measured.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

from registry import Registry
from tests.bench.results import Report
from tests.reliability.scale import Loader

WARM = 50
Choose = Callable[[random.Random], str]


@contextmanager
def served(home: Path) -> Iterator[int]:
    """The port of `tuneline api` on the registry in `home`."""
    command = [sys.executable, "-m", "flows.cli", "api", "--port", "0", "--json"]
    environment = {**os.environ, "TUNELINE_HOME": str(home)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        finally:
            process.terminate()


def ask(port: int, choose: Choose, seed: int, count: int, headers: dict[str, str]) -> list[float]:
    """Ask `count` times over one connection; seconds of each answer."""
    chance, connection = random.Random(seed), http.client.HTTPConnection("127.0.0.1", port)
    seconds = []
    for _ in range(count):
        url, begun = choose(chance), time.perf_counter()
        connection.request("GET", url, headers=headers)
        answer = connection.getresponse()
        answer.read()
        seconds.append(time.perf_counter() - begun)
        assert answer.status in (200, 304), (url, answer.status)
    connection.close()
    return seconds


def rate(port: int, choose: Choose, connections: int, count: int) -> float:
    """Answers per second to several connections at once."""
    threads = [
        threading.Thread(target=ask, args=(port, choose, number, count, {})) for number in range(connections)
    ]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return connections * count / (time.perf_counter() - begun)


def questions(loader: Loader) -> dict[str, Choose]:
    """What dashboards ask."""
    return {
        "page of 50": lambda chance: f"/v1/artifacts?cursor={chance.randrange(60, loader.count)}",
        "page of 50, one kind": lambda _: "/v1/artifacts?kind=quantized",
        "one artifact": lambda chance: f"/v1/artifacts/{chance.choice(loader.ids)}",
        "lineage up, depth 10": lambda chance: f"/v1/artifacts/{chance.choice(loader.leaves)}/lineage",
        "lineage down": lambda chance: f"/v1/artifacts/{chance.choice(loader.roots)}/lineage?direction=down",
        "healthz": lambda _: "/healthz",
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=10_000, help="artifacts")
    parser.add_argument("--count", type=int, default=1000, help="requests per question")
    parser.add_argument("--connections", type=int, default=8)
    given = parser.parse_args(arguments)
    with (
        Report("api", "sqlalchemy", "starlette", "uvicorn") as report,
        tempfile.TemporaryDirectory() as folder,
    ):
        home = Path(folder) / "home"
        with Registry.open(home) as registry:
            loader = Loader(registry)
            loader.fill(given.size)
        with served(home) as port:
            for name, choose in questions(loader).items():
                ask(port, choose, 0, WARM, {})
                cuts = quantiles(ask(port, choose, 1, given.count, {}), n=20)
                per_second = rate(port, choose, given.connections, given.count // given.connections)
                report.row(
                    f"{loader.count:,} artifacts, {given.count:,} requests each",
                    {
                        "question": name,
                        "p50 (ms)": 1e3 * cuts[9],
                        "p95 (ms)": 1e3 * cuts[18],
                        f"answers/s, {given.connections} connections": per_second,
                    },
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
