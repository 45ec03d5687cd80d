"""The registry beside MLflow's model registry, both on SQLite, with as many models as artifacts and channels.

    python -m tests.bench.registry_peers [--models 10000] [--count 300] [--mlflow PYTHON]

A page of 50 at a random place, one at random, and a new one. MLflow's registered model, a name that points to
versions, is held beside our channel and beside our artifact. Over HTTP: one connection to `tuneline api`, and
one to MLflow's own server with one worker, both on loopback; MLflow's Python client over HTTP stands beside
the same answers of ours. In Python: our `Registry`, and MLflow's client on the database itself. Our HTTP API
is read-only, so what is new over HTTP there is beside what is new in Python here, where a channel moves with
a waiver and an artifact is a small file, published under its lease and synced to disk. All ask in turns;
`--mlflow` names an interpreter that has MLflow, which is otherwise installed into a temporary environment.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from registry import Registry, Waiver
from registry.artifacts import StageResult, digest
from registry.catalog import ResourceUse
from tests.bench import mlflow_server
from tests.bench.api import ask, served
from tests.bench.mlflow_server import MLFLOW
from tests.bench.results import Report
from tests.registry.large import large_registry

PAGE, WARM, TURNS = 50, 20, 3
HTTP, CLIENT, PYTHON = "HTTP", "MLflow's client over HTTP", "Python, on the database"
ASK = """
import http.client, json, random, sys, time
from urllib.parse import quote
from mlflow import MlflowClient
database, url = sys.argv[1:3]
clients = {"MLflow's client over HTTP": MlflowClient(url, url)}
clients["Python, on the database"] = direct = MlflowClient(database, database)
connection = http.client.HTTPConnection(url.removeprefix("http://"))
chance, tokens, names, made = random.Random(0), [None], [], 0
while True:
    page = direct.search_registered_models(max_results=50, page_token=tokens[-1])
    names += [model.name for model in page]
    if not page.token:
        break
    tokens.append(page.token if isinstance(page.token, str) else page.token.decode())

def over_http(method, path, body=None):
    headers = {"Content-Type": "application/json"}
    path = "/api/2.0/mlflow/registered-models/" + path
    connection.request(method, path, body and json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text

def once(access, question):
    global made
    name, token = chance.choice(names), chance.choice(tokens)
    if question == "new":
        made, name = made + 1, f"new-{made:06}"
    client = clients.get(access)
    begun = time.perf_counter()
    if question == "page":
        if client:
            client.search_registered_models(max_results=50, page_token=token)
        else:
            over_http("GET", "search?max_results=50" + (f"&page_token={quote(token)}" if token else ""))
    elif question == "one":
        client.get_registered_model(name) if client else over_http("GET", f"get?name={name}")
    else:
        client.create_registered_model(name) if client else over_http("POST", "create", {"name": name})
    return time.perf_counter() - begun

print("ready", flush=True)
for line in sys.stdin:
    access, question, count = json.loads(line)
    connection.close()  # the server ends one that waits while others are measured
    connection.connect()
    print(json.dumps([once(access, question) for _ in range(count)]), flush=True)
"""
"""Answers to (access, question, count) with the seconds that each took; tokens of pages are found before."""
Times = Callable[[int], list[float]]
"""Asks so often; the seconds of each."""


class Ours:
    """Questions to a registry with `count` artifacts and as many channels, at random from a seed."""

    def __init__(self, home: Path, count: int) -> None:
        self.ids = large_registry(home, count).ids
        self.registry = Registry.open(home)
        self.channels = [f"team-{number % 100}/model-{number:05}" for number in range(len(self.ids))]
        for channel, artifact in zip(self.channels, self.ids, strict=True):
            self.new_channel(channel, artifact)
        self._chance, self._made = random.Random(0), 0

    def new_channel(self, channel: str, artifact: str) -> None:
        self.registry.channels.move(channel, artifact, 0, waiver=Waiver("made to be measured", "bench"))

    def new_artifact(self, number: int) -> None:
        with self.registry.draft(digest(["registry_peers", number]), "prepare") as draft:
            (draft.path / "rows.txt").write_text(f"row {number}")
            result = StageResult("dataset", "prepare", 1, config={"number": number})
            draft.commit(result, ResourceUse(started=datetime.now(UTC), seconds=0.0))

    def python(self) -> dict[tuple[str, str], Times]:
        """(what, question) → how it is asked of the `Registry`."""
        chance, registry = self._chance, self.registry
        return {
            ("artifact", "page"): self._each(
                lambda _: registry.ls(limit=PAGE, after=chance.choice(self.ids))
            ),
            ("artifact", "one"): self._each(lambda _: registry.get(chance.choice(self.ids))),
            ("channel", "one"): self._each(lambda _: registry.channels.get(chance.choice(self.channels))),
            ("artifact", "new"): self._each(self.new_artifact),
            ("channel", "new"): self._each(lambda n: self.new_channel(f"new/model-{n:06}", self.ids[0])),
        }

    def http(self, port: int) -> dict[tuple[str, str], Times]:
        """(what, question) → how it is asked of `tuneline api`."""
        paths: Mapping[tuple[str, str], Callable[[random.Random], str]] = {
            ("artifact", "page"): lambda c: f"/v1/artifacts?cursor={c.randrange(60, len(self.ids))}",
            ("channel", "page"): lambda c: f"/v1/channels?cursor={c.choice(self.channels)}",
            ("artifact", "one"): lambda c: f"/v1/artifacts/{c.choice(self.ids)}",
            ("channel", "one"): lambda c: f"/v1/channels/{c.choice(self.channels)}",
        }
        return {
            key: lambda count, path=path: ask(  # type: ignore[misc]
                port, path, self._chance.randrange(10**6), count, {}
            )
            for key, path in paths.items()
        }

    def _each(self, act: Callable[[int], object]) -> Times:
        def times(count: int) -> list[float]:
            seconds = []
            for _ in range(count):
                self._made += 1
                begun = time.perf_counter()
                act(self._made)
                seconds.append(time.perf_counter() - begun)
            return seconds

        return times


class Mlflow:
    """MLflow's clients, in a process of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._line()

    def times(self, access: str, question: str, count: int) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([access, question, count]) + "\n")
        self._process.stdin.flush()
        seconds: list[float] = json.loads(self._line())
        return seconds

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("MLflow's clients ended; what they said is above")
        return line


@contextmanager
def peer(python: Path, folder: Path, count: int) -> Iterator[Mlflow]:
    """Its server, and its clients."""
    database = mlflow_server.filled(python, folder, count)
    with mlflow_server.served(python, database) as url:
        words = [python, "-W", "ignore", "-c", ASK, database, url]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=mlflow_server.environment(python),
        ) as process:  # fmt: skip
            try:
                yield Mlflow(process)
            finally:
                process.terminate()


def measured(asked: Mapping[tuple[str, ...], Times], count: int) -> dict[tuple[str, ...], list[float]]:
    """Seconds of each, asked in turns; the first few are not counted."""
    found: dict[tuple[str, ...], list[float]] = {key: [] for key in asked}
    for times in asked.values():
        times(WARM)
    for _ in range(TURNS):
        for key, times in asked.items():
            found[key] += times(count // TURNS)
    return found


def show(report: Report, title: str, found: Mapping[tuple[str, ...], list[float]]) -> None:
    """A row for each pair; behind where MLflow is faster, at the median or at p95."""
    for question, label in (("page", f"page of {PAGE}"), ("one", "one"), ("new", "new")):
        for access in (HTTP, CLIENT, PYTHON):
            for what in ("artifact", "channel"):
                how = PYTHON if access == PYTHON or question == "new" else HTTP
                if (own := found.get((how, what, question))) is None:
                    continue
                other = found[access, "MLflow", question]
                mine, theirs = (statistics.quantiles(seconds, n=20) for seconds in (own, other))
                row = {
                    "question": label,
                    "tuneline's": f"{what}, {how}",
                    "p50 (ms)": 1e3 * mine[9],
                    "p95 (ms)": 1e3 * mine[18],
                    "MLflow's": access,
                    "MLflow's p50 (ms)": 1e3 * theirs[9],
                    "MLflow's p95 (ms)": 1e3 * theirs[18],
                    "MLflow / tuneline, p50": theirs[9] / mine[9],
                    "MLflow / tuneline, p95": theirs[18] / mine[18],
                }
                report.row(title, row, mine[9] > theirs[9] or mine[18] > theirs[18])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--count", type=int, default=300, help="of each question")
    parser.add_argument("--mlflow", type=Path, metavar="PYTHON", help="an interpreter that has it")
    given = parser.parse_args()
    packages = ("sqlalchemy", "fastapi", "starlette", "uvicorn")
    with Report("registry_peers", *packages) as report, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = given.mlflow.absolute() if given.mlflow else mlflow_server.installed(folder)
        own = Ours(folder / "home", given.models)
        with served(folder / "home") as port, peer(python, folder, given.models) as clients:
            asked: dict[tuple[str, ...], Times] = {
                (access, "MLflow", question): partial(clients.times, access, question)
                for access in (HTTP, CLIENT, PYTHON)
                for question in ("page", "one", "new")
            }
            asked |= {(HTTP, *key): times for key, times in own.http(port).items()}
            asked |= {(PYTHON, *key): times for key, times in own.python().items()}
            found = measured(asked, given.count)
        own.registry.close()
        title = f"{given.models:,} models, artifacts and channels; {given.count} times each"
        show(report, title, found)
        report.note(title, f"{MLFLOW}. What is new is asked of Python here, since our HTTP API is read-only.")


if __name__ == "__main__":
    main()
