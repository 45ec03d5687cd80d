"""Many processes move one channel: `python -m tests.reliability.channels --processes 32 --rounds 200`.

In each round all of them read the same generation and try to move from it. Prints one JSON document; exits
with 1 unless each generation had exactly one winner, the others a Conflict, and the history holds every move.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from functools import partial
from typing import Any

from registry import Waiver
from registry.errors import Conflict
from tests.registry.backends import Backend
from tests.reliability import choice
from tests.reliability.publish import answer, id_of, key_of, publish

CHANNEL = "team/prod"


def _compete(backend: Backend, number: int, rounds: int, start: Any, results: Any) -> None:
    with backend.open() as registry:
        for turn in range(rounds):
            start.wait()
            current = registry.channels.get(CHANNEL)
            start.wait()
            try:
                waiver = Waiver(f"round {turn}", f"process {number}")
                generation = current.generation if current else 0
                moved = registry.channels.move(CHANNEL, id_of(number % 2), generation, waiver=waiver)
                results.put(("won", turn, number, moved.generation))
            except Conflict:
                results.put(("lost", turn, number, 0))


def compete(backend: Backend, processes: int, rounds: int) -> dict[str, Any]:
    for trial in range(2):
        answer(partial(publish, backend, trial, key_of(trial), lambda _: None))
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(processes), context.SimpleQueue()
    children = [
        context.Process(target=_compete, args=(backend, number, rounds, start, results))
        for number in range(processes)
    ]
    for child in children:
        child.start()
    got = [results.get() for _ in range(processes * rounds)]
    for child in children:
        child.join()
    wrong = [f"process ended with {c.exitcode}" for c in children if c.exitcode != 0]
    winners = {(turn, generation): number for what, turn, number, generation in got if what == "won"}
    won = Counter(turn for what, turn, _, _ in got if what == "won")
    wrong += [f"round {turn} had {won[turn]} winners" for turn in range(rounds) if won[turn] != 1]
    with backend.open() as registry:
        history = registry.channels.history(CHANNEL)
    if [(e.reason, e.who) for e in history] != [
        (f"round {turn}", f"process {winners.get((turn, turn + 1))}") for turn in range(rounds)
    ]:
        wrong.append(f"the history has {len(history)} events, and not exactly the winners' {rounds}")
    counts = Counter(what for what, *_ in got)
    return {"processes": processes, "rounds": rounds, **counts, "events": len(history), "wrong": wrong}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=200)
    choice.add_arguments(parser)
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    with choice.chosen(given) as new_backend:
        result = compete(new_backend(), given.processes, given.rounds)
    choice.report(given, begun, **result)
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
