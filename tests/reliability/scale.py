"""Reading a large registry: `python -m tests.reliability.scale --sizes 10000 100000 --database postgresql`.

Fills a registry with families of artifacts (bases, datasets, adapters, merged and quantized models,
evaluations; the last of each family has a lineage of depth 10), asks what people ask of it, in random order
and about random artifacts, then fills it further and asks again. Prints one JSON document: for each question
p50 and p95 in milliseconds at each size, and by what the database's own work was multiplied (SQLite's
instructions, PostgreSQL's pages). Exits with 1 when a p95 is over 50 ms, or work grew by more than half of
what the artifacts did.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection, event, insert, select

from registry import Registry, catalog
from registry.api import queries
from registry.artifacts import (
    BaseReference,
    FileEntry,
    Kind,
    Manifest,
    Parentage,
    QuantSpec,
    Relation,
    digest,
)
from registry.db.engine import now
from registry.db.tables import artifacts, edges, executions, gate_decisions, keys, names
from registry.processes import host_id
from tests.reliability import choice
from tests.seconds import seconds

DEPTH = 10
SLOWEST_MS = seconds(50.0)
FAMILY = 20
"""Artifacts of a family."""

Question = Callable[[], Any]


class Loader:
    """Writes rows as a publication would, a thousand artifacts in a transaction."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._rows: dict[Any, list[dict[str, Any]]] = {}
        self.count = 0
        self.roots: list[str] = []
        self.leaves: list[str] = []
        self.ids: list[str] = []
        self.keys: list[str] = []
        self.names: list[str] = []

    def fill(self, size: int) -> None:
        """Add families until there are about `size` artifacts."""
        while self.count < size:
            self._family(self.count // FAMILY)
            if self.count % 1000 < FAMILY or self.count >= size:
                self._write()
        with self._registry.database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("ANALYZE")  # as autovacuum does, which the test server lacks

    def _family(self, number: int) -> None:
        base = self._base(number // 10)
        quant = QuantSpec(method="none", toolchain={"torch": "2.13.0"})
        add = partial(self._add, number, base=base, quant=quant)
        root = add("base", "resolve", ())
        data = add("dataset", "prepare", (("tokenized_for", root),), base=None, quant=None)
        self.roots.append(root)
        current = root
        for _ in range((DEPTH - 2) // 2):
            adapter = add("adapter", "train", (("adapter", current), ("trained_on", data)))
            current = add("merged", "merge", (("merge", current), ("merge", adapter)))
            for model in (adapter, current):
                measured: tuple[tuple[Relation, str], ...] = (
                    ("evaluation_of", model),
                    ("evaluated_on", data),
                )
                add("evaluation", "evaluate", measured, base=None, quant=None)
        spec = QuantSpec(
            method="gptq", requested={"bits": 4}, effective={"bits_per_weight": 4.25},
            calibration_dataset=data, merge_base="nf4", toolchain={"gptqmodel": "7.6.0"},
        )  # fmt: skip
        final = add("quantized", "quantize", (("quantized", current), ("calibrated_on", data)), quant=spec)
        self.leaves.append(
            add(
                "evaluation",
                "evaluate",
                (("evaluation_of", final), ("evaluated_on", data)),
                base=None,
                quant=None,
            )
        )
        self._name(number, final)
        self._decide(final, root)

    def _base(self, number: int) -> BaseReference:
        def digit(of: str) -> str:
            return digest([number, of])

        return BaseReference(
            source=f"hub:acme/model-{number}", revision=digit("revision")[:40],
            weights_digest=digit("weights"), tokenizer_digest=digit("tokenizer"), tokenizer_length=49152,
            embedding_rows=49152, chat_template_digest=digit("template"), architecture="LlamaForCausalLM",
        )  # fmt: skip

    def _add(
        self, family: int, kind: Kind, stage: str, parents: tuple[tuple[Relation, str], ...],
        base: BaseReference | None, quant: QuantSpec | None,
    ) -> str:  # fmt: skip
        files = {
            f"model-{part}.safetensors": FileEntry(sha256=digest([self.count, part]), size=10_000_000 + part)
            for part in range(4)
        }
        manifest = Manifest(
            kind=kind, stage=stage, stage_version=1, config={"family": family, "number": self.count},
            toolchain={"torch": "2.13.0", "transformers": "5.19.0"}, base=base, quant=quant,
            metrics={"loss": 1 / (family + 1)}, files=files,
            parents=tuple(Parentage(relation=relation, id=parent) for relation, parent in parents),
        )  # fmt: skip
        key, at = digest(["key", self.count]), now()
        columns = catalog._columns(manifest, "", at)
        one = hashlib.sha256(columns["manifest"].encode()).hexdigest()
        self._row(artifacts, **{**columns, "id": one})
        for relation, parent in parents:
            self._row(edges, child=one, relation=relation, parent=parent)
        self._row(keys, key=key, artifact_id=one, created=at)
        self._row(
            executions, artifact_id=one, key=key, started=at, seconds=1.0, peak_bytes=2**33, host=host_id()
        )
        self.ids.append(one)
        self.keys.append(key)
        self.count += 1
        return one

    def _name(self, family: int, one: str) -> None:
        name, version = f"model-{family // 5}", family % 5 + 1
        self._row(names, name=name, version=version, artifact_id=one)
        self.names.append(f"{name}@{version}")

    def _decide(self, candidate: str, baseline: str) -> None:
        content = {"candidate": candidate, "baseline": baseline, "verdict": "pass"}
        texts = {"policy": "{}", "evidence": "{}", "created": now()}
        self._row(gate_decisions, id=digest(content), **content, **texts)

    def _row(self, table: Any, **values: Any) -> None:
        self._rows.setdefault(table, []).append(values)

    def _write(self) -> None:
        with self._registry.database.write() as connection:
            for table in (artifacts, edges, keys, executions, names, gate_decisions):
                if rows := self._rows.pop(table, []):
                    connection.execute(insert(table), rows)


def questions(registry: Registry, loaded: Loader, choose: random.Random) -> dict[str, Question]:
    """What is asked; each call is about other artifacts."""
    pick = choose.choice

    def asked(ask: Callable[..., Any], **given: Any) -> Any:
        with registry.database.read() as connection:
            return ask(connection, **given)

    def show(ref: str) -> None:
        artifact = registry.get(ref)
        registry.executions(artifact.id)
        registry.gates.latest(artifact.id)

    def lineage() -> None:
        found = registry.lineage(pick(loaded.leaves))
        assert len(found) > 2 * DEPTH

    def page(**filters: Any) -> Any:
        return asked(queries.artifact_page, filters=queries.ArtifactFilters(**filters), limit=50)

    return {
        "ls, first page": lambda: registry.ls(limit=50),
        "ls, a page further on": lambda: registry.ls(limit=50, after=pick(loaded.ids)),
        "ls of a kind": lambda: registry.ls("quantized", limit=50),
        "ls of a kind, further on": lambda: registry.ls("evaluation", limit=50, after=pick(loaded.ids)),
        "show by id": lambda: show(pick(loaded.ids)),
        "show by its first digits": lambda: show(pick(loaded.ids)[:12]),
        "show by name": lambda: show(pick(loaded.names)),
        "lineage of depth 10": lineage,
        "find by key": lambda: registry.find(pick(loaded.keys)),
        "page for the API": page,
        "page of a stage": partial(page, stage="quantize"),
        "page of a stage without results": partial(page, stage="nothing"),
        "page of a base": lambda: page(base_revision=digest([pick(range(2)), "revision"])[:40]),
        "page of a quantization": partial(page, quant_method="gptq"),
        "page of a quantization without results": partial(page, quant_method="gguf"),
        "page of a name": lambda: page(name=pick(loaded.names).partition("@")[0]),
        "evaluations of a model": lambda: asked(
            queries.evaluations, artifact_id=asked(_parent, child=pick(loaded.leaves)), limit=50, after=None
        ),
        "lineage for the API, downwards": lambda: asked(
            queries.lineage, artifact_id=pick(loaded.roots), direction="down", depth=10, most=500
        ),
    }


def _parent(connection: Connection, child: str) -> str:
    query = select(edges.c.parent).where((edges.c.child == child) & (edges.c.relation == "evaluation_of"))
    return str(connection.execute(query).scalar_one())


def timed(asked: dict[str, Question], rounds: int, choose: random.Random) -> dict[str, dict[str, float]]:
    """p50 and p95 of each question in milliseconds; one round warms up."""
    for ask in asked.values():
        ask()
    taken: dict[str, list[float]] = {name: [] for name in asked}
    order = [name for name in asked for _ in range(rounds)]
    choose.shuffle(order)
    for name in order:
        begun = time.perf_counter()
        asked[name]()
        taken[name].append((time.perf_counter() - begun) * 1000)
    return {
        name: {
            "p50 ms": round(statistics.median(ms), 2),
            "p95 ms": round(statistics.quantiles(ms, n=20)[18], 2),
        }
        for name, ms in taken.items()
    }


@contextmanager
def counting(registry: Registry) -> Iterator[Callable[[], int]]:
    """How much the database worked so far, in a unit of its own that no other load on the machine changes."""
    engine, done = registry.database.engine, 0

    def tick() -> None:
        nonlocal done
        done += 1

    def checked_out(raw: Any, *_: object) -> None:
        raw.set_progress_handler(tick, 1)

    def explain(connection: Connection, cursor: Any, statement: str, given: Any, *_: object) -> None:
        nonlocal done
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            plan = cursor.connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", given)
            (found,) = plan.fetchone()[0]
            done += found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"]

    hook = (
        ("checkout", checked_out) if engine.dialect.name == "sqlite" else ("before_cursor_execute", explain)
    )
    event.listen(engine, *hook)
    try:
        yield lambda: done
    finally:
        event.remove(engine, *hook)
        registry.close()


def work(registry: Registry, asked: dict[str, Question], rounds: int) -> dict[str, float]:
    """The database's work for each question, on average."""
    found = {}
    with counting(registry) as done:
        for name, ask in asked.items():
            before = done()
            for _ in range(rounds):
                ask()
            found[name] = (done() - before) / rounds
    return found


def too_much(small: dict[str, float], large: dict[str, float], times: float) -> dict[str, float]:
    """By what the work of a question was multiplied, where that is over half of what the artifacts were.

    Work that does not depend on them still varies: with a tree's height, and with the plan that is chosen.
    """
    growth = {name: round(large[name] / small[name], 2) for name in small}
    return {name: by for name, by in growth.items() if by > times / 2}


def measure(registry: Registry, sizes: list[int], rounds: int, seed: int) -> dict[str, Any]:
    choose = random.Random(seed)
    loaded = Loader(registry)
    times, works, seconds = {}, {}, {}
    for size in sizes:
        begun = time.monotonic()
        loaded.fill(size)
        seconds[loaded.count] = round(time.monotonic() - begun, 1)
        asked = questions(registry, loaded, choose)
        times[loaded.count] = timed(asked, rounds, choose)
        works[loaded.count] = work(registry, asked, min(rounds, 10))
    small, large = works.values()
    grown = too_much(small, large, times=sizes[1] / sizes[0])
    wrong = [
        f"{name}: p95 {found['p95 ms']} ms among {size} artifacts"
        for size, all_found in times.items()
        for name, found in all_found.items()
        if found["p95 ms"] > SLOWEST_MS
    ]
    wrong += [f"{name}: work grew {by}-fold" for name, by in grown.items()]
    growth = {name: round(large[name] / small[name], 2) for name in small}
    return {"filled in seconds": seconds, "times": times, "growth of work": growth, "wrong": wrong}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=100, help="of each question, at each size")
    parser.add_argument("--seed", type=int, default=0)
    choice.add_arguments(parser)
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    with choice.chosen(given) as new_backend, new_backend().open() as registry:
        result = measure(registry, given.sizes, given.rounds, given.seed)
    choice.report(given, begun, **result)
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
