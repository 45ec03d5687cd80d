"""Publishing against kill -9 and against itself: `python -m tests.reliability.publish --trials 3000`.

Each trial publishes an artifact in a process that is killed at a named point of the publication, or at any
moment; then checks that what is visible is whole, and that publishing again ends at the id of the content.
Prints one JSON document; exits with 1 if anything was corrupt, half visible or lost.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any

from registry import Registry
from registry.artifacts import FileEntry, Manifest, StageResult, memo_key
from registry.catalog import ResourceUse
from registry.drafts import FAILPOINTS
from registry.errors import Conflict, RegistryError
from tests.registry.backends import Backend
from tests.reliability import choice

ANY_MOMENT = "any moment"
PER_FILE = (*FAILPOINTS[3:7], "uploaded")


def points_of(backend: Backend) -> tuple[str, ...]:
    """The points that a publication there passes, in order."""
    return (*FAILPOINTS[:7], "uploaded", *FAILPOINTS[7:]) if backend.store_url else FAILPOINTS


def files_of(trial: int) -> dict[str, bytes]:
    """One file that all trials share, two that only this one has."""
    return {
        "shared.txt": b"in every artifact",
        "small.txt": f"trial {trial}".encode(),
        "nested/large.bin": hashlib.sha256(f"{trial}".encode()).digest() * 4000,
    }


def key_of(trial: int, attempt: int = 0) -> str:
    return memo_key("prepare", 1, {"trial": trial, "attempt": attempt}, {}, {})


def id_of(trial: int) -> str:
    """The id that the content has, worked out without the registry."""
    entries = {
        name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        for name, content in files_of(trial).items()
    }
    return Manifest(
        kind="dataset", stage="prepare", stage_version=1, config={"trial": trial}, toolchain={}, files=entries
    ).id


def publish(backend: Backend, trial: int, key: str, point: Callable[[str], None]) -> str:
    with backend.open(failpoint=point) as registry:
        return commit(registry, trial, key)


def commit(registry: Registry, trial: int, key: str) -> str:
    with registry.draft(key, "prepare") as draft:
        for name, content in files_of(trial).items():
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_bytes(content)
        return draft.commit(
            StageResult(kind="dataset", stage="prepare", stage_version=1, config={"trial": trial}),
            ResourceUse(datetime(2026, 1, 1, tzinfo=UTC), 0),
        ).id


def in_child(work: Callable[[], Any], kill_after: float | None = None) -> int:
    """Run `work` in a forked process; returns its exit status, negative for a signal."""
    pid = in_background(work)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_background(work: Callable[[], Any]) -> int:
    """Run `work` in a forked process; returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def killer(at: str, times: int) -> Callable[[str], None]:
    """Ends this process when it passes the point `at` for the nth time."""
    left = times

    def hear(point: str) -> None:
        nonlocal left
        left -= point == at
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return hear


def answer(work: Callable[[], Any]) -> Any:
    """What `work` returns in a forked process; this one opens no store, whose threads no fork survives."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=lambda: results.put(work()))
    child.start()
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"a look at the registry ended with {child.exitcode}")
    return results.get()


def kill_trials(backend: Backend, trials: int, seed: int) -> dict[str, Any]:
    """Kill, look, publish again, look; returns counts and what went wrong."""
    choose = random.Random(seed)
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    usual = 0.02
    points = points_of(backend)
    import_beforehand(backend)
    for trial in range(trials):
        at = (*points, ANY_MOMENT)[trial % (len(points) + 1)]
        hook = killer(at, choose.randint(1, 2) if at in PER_FILE else 1)
        delay = choose.uniform(0, usual) if at == ANY_MOMENT else None
        status = in_child(partial(publish, backend, trial, key_of(trial), hook), delay)
        killed = status == -signal.SIGKILL
        seen[f"killed at {at}"] += killed
        if not killed and at != ANY_MOMENT:
            wrong.append(f"trial {trial}: was to be killed at {at}, ended with {status}")
        visible, problems, usual = answer(partial(tried_again, backend, trial, at))
        wrong += problems
        seen["visible after the kill"] += visible
        if visible and killed and at in FAILPOINTS[:-1]:
            wrong.append(f"trial {trial}: visible although killed at {at}")
    wrong += answer(partial(everything, backend, trials))
    return {"trials": trials, **dict(sorted(seen.items())), "wrong": wrong}


def import_beforehand(backend: Backend) -> None:
    """Have this process import what each of its forks would import for itself; nothing stays connected."""
    backend.open().close()
    if backend.store_url:
        importlib.import_module("registry.store.s3")


def tried_again(backend: Backend, trial: int, at: str) -> tuple[bool, list[str], float]:
    """Look, publish again, look; whether it was visible at first, what was wrong, and the seconds it took."""
    begun = time.monotonic()
    with backend.open() as registry:
        opened = time.monotonic() - begun
        visible = registry.find(key_of(trial)) is not None
        wrong = whole(registry, trial, f"after a kill at {at}") if visible else []
        begun = time.monotonic()
        try:
            commit(registry, trial, key_of(trial))
        except RegistryError as error:
            wrong.append(f"trial {trial}: publishing again after a kill at {at}: {error}")
        seconds = opened + time.monotonic() - begun
        return visible, wrong + whole(registry, trial, f"again after a kill at {at}"), seconds


def _pass(_point: str) -> None:
    return None


def whole(registry: Registry, trial: int, when: str) -> list[str]:
    found = registry.find(key_of(trial))
    if found is None:
        return [f"trial {trial}: not found {when}"]
    problems = [str(problem) for problem in registry.verify(found.id)]
    if found.id != id_of(trial):
        problems.append(f"id {found.id} instead of {id_of(trial)}")
    view = registry.view(found.id)
    for name, content in files_of(trial).items():
        if (view / name).read_bytes() != content:
            problems.append(f"view of {name} differs")
    return [f"trial {trial} {when}: {problem}" for problem in problems]


def everything(backend: Backend, trials: int) -> list[str]:
    """After all trials: each artifact is whole, and nothing else is there."""
    wrong = []
    with backend.open() as registry:
        for trial in range(trials):
            wrong += whole(registry, trial, "at the end")
        listed = registry.ls(limit=trials + 1)
        if {artifact.id for artifact in listed} != {id_of(trial) for trial in range(trials)}:
            wrong.append(f"{len(listed)} artifacts are listed, expected {trials}")
    left = [path.name for path in (backend.home / "drafts").iterdir()]
    if left:
        wrong.append(f"drafts are left: {left}")
    if backend.database_url is None:
        with closing(sqlite3.connect(backend.home / "registry.db")) as connection:
            verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
        wrong += [] if verdict == "ok" else [f"database: {verdict}"]
    return wrong


def _publish_together(backend: Backend, number: int, same_key: bool, start: Any, results: Any) -> None:
    start.wait()
    try:
        results.put(publish(backend, 0, key_of(0, 0 if same_key else number), _pass))
    except Conflict:
        results.put("conflict")


def together(backend: Backend, processes: int, same_key: bool) -> dict[str, Any]:
    """The same content published by many processes at once, under one key or one key each."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(processes), context.SimpleQueue()
    answer(partial(_open, backend))
    children = [
        context.Process(target=_publish_together, args=(backend, number, same_key, start, results))
        for number in range(processes)
    ]
    for child in children:
        child.start()
    got = Counter(results.get() for _ in children)
    for child in children:
        child.join()
    wrong = [f"process ended with {c.exitcode}" for c in children if c.exitcode != 0]
    if got[id_of(0)] + (got["conflict"] if same_key else 0) != processes or not got[id_of(0)]:
        wrong.append(f"results {dict(got)}")
    wrong += answer(partial(_only_one, backend))
    return {"processes": processes, "published": got[id_of(0)], "conflicts": got["conflict"], "wrong": wrong}


def killed_among_others(backend: Backend, rounds: int, processes: int, seed: int) -> dict[str, Any]:
    """The same content published by several processes at once, half of which are killed at any moment."""
    choose = random.Random(seed)
    answer(partial(_open, backend))
    killed, wrong, usual = 0, [], 0.05
    for trial in range(rounds):
        begun = time.monotonic()
        running = [
            in_background(partial(publish, backend, trial, key_of(trial, number), _pass))
            for number in range(processes)
        ]
        delays = sorted(choose.uniform(0, usual) for _ in range(processes // 2))
        for pid, delay in zip(running[processes - len(delays) :], delays, strict=True):
            time.sleep(max(0.0, delay - (time.monotonic() - begun)))
            os.kill(pid, signal.SIGKILL)
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in running]
        usual = time.monotonic() - begun
        killed += ends.count(-signal.SIGKILL)
        if any(ends[: processes - len(delays)]):
            wrong.append(f"round {trial}: processes ended with {ends}")
        wrong += answer(partial(_whole, backend, trial, "after some publishers were killed"))
    return {"rounds": rounds, "processes": processes, "killed": killed, "wrong": wrong}


def _open(backend: Backend) -> None:
    backend.open().close()


def _whole(backend: Backend, trial: int, when: str) -> list[str]:
    with backend.open() as registry:
        return whole(registry, trial, when)


def _only_one(backend: Backend) -> list[str]:
    with backend.open() as registry:
        listed = [artifact.id for artifact in registry.ls()]
        wrong = [] if listed == [id_of(0)] else [f"{len(listed)} artifacts"]
        return wrong + [str(problem) for problem in registry.verify(id_of(0))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=3000, help="publications that are killed")
    parser.add_argument("--processes", type=int, default=32, help="identical publications at once")
    parser.add_argument(
        "--rounds", type=int, default=100, help="times that some of six publishers are killed"
    )
    parser.add_argument("--seed", type=int, default=0)
    choice.add_arguments(parser)
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    with choice.chosen(given) as new_backend:
        parts: dict[str, dict[str, Any]] = {
            "killed": kill_trials(new_backend(), given.trials, given.seed),
            "together, a key each": together(new_backend(), given.processes, same_key=False),
            "together, one key": together(new_backend(), given.processes, same_key=True),
            "killed among others": killed_among_others(new_backend(), given.rounds, 6, given.seed),
        }
    choice.report(given, begun, **parts)
    return 1 if any(part["wrong"] for part in parts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
