"""Publish, promote, roll back, collect and kill -9 at once: `python -m tests.reliability.gc --steps 2000`.

Several processes work on one registry. Each takes random steps: it publishes an artifact (of a small family
of contents, so that blobs are shared and results come again), on parents or not; promotes or names one; rolls
a channel back; or collects with `delete`, keeping nothing for its age. Some are killed with -9 at a named
point of a publication or a collection, or at any moment. After each round everything that is in use, worked
out here from the tables anew, must be there byte for byte. On PostgreSQL, connections break now and then: the
server hangs up on everybody, also between a collection's deletions. `--without marks` or `--without check`
switches one protection off, to see that the trial finds it. Prints one JSON document; exits with 1 if
anything was lost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from registry import Artifact, Registry, Waiver, content, deletions
from registry.artifacts import Parentage, StageResult, memo_key
from registry.catalog import ResourceUse
from registry.db.tables import channel_events, channels, content_events, edges, names
from registry.drafts import FAILPOINTS
from registry.errors import Collected, Conflict, NotFound, RegistryError, StoreFailed
from registry.gc import collect as gc
from registry.gc.collect import FAILPOINTS as GC_FAILPOINTS
from registry.gc.reachability import RetentionPolicy
from registry.store.store import Store
from tests.registry.backends import Backend
from tests.reliability import choice
from tests.reliability.publish import answer, killer

FAMILIES = 8
CHANNELS = ("team/prod", "team/canary")
KEEPING = RetentionPolicy(days=0, history=2)
ANY_MOMENT = "any moment"
WORK = ("publish",) * 5 + ("promote",) * 3 + ("rollback", "name", *("collect",) * 4)


def publish(registry: Registry, family: int, attempt: int, parents: Iterable[Artifact] = ()) -> Artifact:
    """One file that all share, one of this family of contents, and one of the attempt."""
    ids = sorted({parent.id for parent in parents})
    key = memo_key("prepare", 1, {"family": family}, {str(i): one for i, one in enumerate(ids)}, {})
    with registry.draft(key, "prepare", holds=ids) as draft:
        found = registry.find(key)
        if found is not None:
            return found
        (draft.path / "shared").write_bytes(b"in every artifact")
        (draft.path / "family").write_bytes(f"family {family} ".encode() * 500)
        (draft.path / "attempt").write_bytes(f"attempt {attempt} at {family}".encode())
        parents = tuple(Parentage(relation="finetune", id=id_) for id_ in ids)
        return draft.commit(
            StageResult(
                kind="dataset", stage="prepare", stage_version=1, config={"family": family}, parents=parents
            ),
            ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 0),
        )


def step(registry: Registry, what: str, choose: random.Random) -> None:
    """One random step of this kind."""
    if what == "collect":
        registry.collect(KEEPING, delete=True)
    elif what == "rollback":
        registry.channels.rollback(choose.choice(CHANNELS), reason="trial", who="trial")
    else:
        with registry.database.read() as connection:
            gone = content.collected(connection)
        recent = [artifact for artifact in registry.ls(limit=12) if artifact.id not in gone]
        parents = choose.sample(recent, min(len(recent), choose.randint(0, 2)))
        made = publish(registry, choose.randrange(FAMILIES), choose.randrange(2), parents)
        if what == "promote":
            channel = choose.choice(CHANNELS)
            current = registry.channels.get(channel)
            generation = current.generation if current else 0
            registry.channels.move(channel, made.id, generation, waiver=Waiver("trial", "trial"))
        if what == "name" and choose.random() < 0.05:  # a name is for ever, and so would everything be
            registry.name(made.id, "kept")


def switch_off(protection: str | None) -> None:
    """Make this process go without marks on what is deleted, or without the check before a commit."""
    if protection == "marks":
        deletions.marked = lambda *_: set()
    if protection == "check":
        Store.missing = lambda *_: []  # type: ignore[method-assign]


def hang_up(backend: Backend) -> None:
    """Have the server end every connection to the registry's database, this process's own too."""
    with psycopg.connect(str(backend.database_url), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def work(backend: Backend, seed: int, steps: int, point: str | None, log: Path, without: str | None) -> None:
    """Take random steps; end by kill -9 at `point`, if given. What came of each step goes to `log`."""
    switch_off(without)
    gc.UNDER_WAY_SECONDS = 0.0  # what is being published is fair game
    if backend.store_url:
        deletions.MARK_SECONDS = 5.0  # what a killed collection marked would hold up the trial
    choose = random.Random(seed)
    kill = killer(point, choose.randint(1, 3)) if point in (*FAILPOINTS, *GC_FAILPOINTS) else lambda _: None

    def hook(at: str) -> None:
        kill(at)
        if at in {"stored", "gc marked", "gc listed", "gc deleting"}:
            if backend.database_url and choose.random() < 0.03:
                with suppress(psycopg.Error):  # somebody else hung up on us first
                    hang_up(backend)
            # So that the others come between; a whole collection between storing and looking.
            time.sleep(choose.uniform(0, 0.4 if at == "stored" else 0.1))

    with backend.open(failpoint=hook) as registry:
        for _ in range(steps):
            what = said = choose.choice(WORK)
            try:
                step(registry, what, choose)
            except (Collected, Conflict, NotFound) as error:
                said = f"{what}: {type(error).__name__}"
            except StoreFailed as error:
                if "was gone each time" in str(error):  # here a collection comes between each time, or nearly
                    said = f"{what}: gave up"
                elif isinstance(error.__cause__, OperationalError) and backend.database_url is not None:
                    said = f"{what}: connection broke"
                else:
                    raise
            with log.open("a") as lines:
                lines.write(f"{said}\n")


def in_use(registry: Registry, history: int) -> dict[str, str]:
    """What must be there and why, from the tables alone and not by the collector's own reckoning."""
    found: dict[str, str] = {}
    with registry.database.read() as connection:
        for row in connection.execute(select(channels)):
            found[row.artifact_id] = f"{row.name} points to it"
            past = select(channel_events).where(channel_events.c.channel == row.name)
            late = past.order_by(channel_events.c.generation.desc()).limit(history)
            for event in connection.execute(late):
                found.setdefault(event.artifact_id, f"{row.name} had it as generation {event.generation}")
        for row in connection.execute(select(names)):
            found.setdefault(row.artifact_id, f"it is {row.name}@{row.version}")
        pairs = [(row.child, row.parent) for row in connection.execute(select(edges))]
        latest = {
            row.artifact_id: row.action
            for row in connection.execute(select(content_events).order_by(content_events.c.sequence))
        }
    while more := {p: f"{c[:12]} was made from it" for c, p in pairs if c in found and p not in found}:
        found |= more
    # What never was marked as collected promises its files too, in use or not.
    everything = {artifact.id for artifact in registry.ls(limit=1_000_000)}
    here = everything - {one for one, action in latest.items() if action == "collected"}
    return found | dict.fromkeys(here - found.keys(), "it is not marked as collected")


def lost(registry: Registry, history: int = KEEPING.history) -> list[str]:
    """What is in use and not there byte for byte."""
    wrong = []
    for one, why in in_use(registry, history).items():
        try:
            wrong += [f"{one[:12]} ({why}): {problem}" for problem in registry.verify(one)]
        except RegistryError as error:
            wrong.append(f"{one[:12]} ({why}): {error}")
    return wrong


def look(backend: Backend) -> tuple[list[str], int]:
    """What is lost, and of how many artifacts that are in use."""
    with backend.open() as registry:
        return lost(registry), len(in_use(registry, KEEPING.history))


def at_the_end(backend: Backend) -> tuple[list[str], Counter[str]]:
    """What is lost after a last collection, and how often content was collected and restored."""
    with backend.open() as registry:
        registry.collect(KEEPING, delete=True)
        with registry.database.read() as connection:
            events = Counter(connection.execute(select(content_events.c.action)).scalars())
        return lost(registry), events


def trial(
    backend: Backend, seed: int, steps: int, processes: int, without: str | None = None
) -> dict[str, Any]:
    """`steps` steps in all, in rounds; half of the processes are killed in each."""
    choose, seen, wrong = random.Random(seed), Counter[str](), list[str]()
    context = multiprocessing.get_context("fork")
    log = backend.home.with_name("steps")
    each, rounds, checked = 10, 0, 0
    while seen.total() < steps and not wrong:
        rounds += 1
        points = [
            choose.choice((*FAILPOINTS, *GC_FAILPOINTS, *(ANY_MOMENT,) * 4)) for _ in range(processes // 2)
        ]
        children = [
            context.Process(target=work, args=(backend, choose.randrange(2**32), each, point, log, without))
            for point in (*points, *[None] * (processes - len(points)))
        ]
        for child in children:
            child.start()
        for child, point in zip(children, points, strict=False):
            if point == ANY_MOMENT:
                child.join(choose.uniform(0.02, 0.5))
                os.kill(int(child.pid or 0), signal.SIGKILL)
        for child in children:
            child.join()
            seen["killed"] += child.exitcode == -signal.SIGKILL
            if child.exitcode not in (0, -signal.SIGKILL):
                wrong.append(f"a process ended with {child.exitcode}")
        seen.update(log.read_text().splitlines() if log.exists() else [])
        log.unlink(missing_ok=True)
        found, count = answer(partial(look, backend))
        wrong, checked = wrong + found, checked + count
    found, events = answer(partial(at_the_end, backend))
    wrong += found
    return {
        "seed": seed, "steps": seen.total() - seen["killed"], "rounds": rounds, **dict(sorted(seen.items())),
        **events, "artifacts checked": checked, "wrong": wrong,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", choices=["marks", "check"], help="switch this protection off")
    choice.add_arguments(parser)
    given, begun = parser.parse_args(arguments), time.monotonic()
    with choice.chosen(given) as new_backend:
        found = trial(new_backend(), given.seed, given.steps, given.processes, given.without)
    choice.report(given, begun, **found)
    return 1 if found["wrong"] or not found.get("collected") else 0


if __name__ == "__main__":
    sys.exit(main())
