"""A night of 40 tenants over one base by two workers, the nights after it, and the same while all is killed.

    python -m tests.reliability.nights --tenants 40 --kills 30

Prints tables; ends with 1 where something is not as it has to be. `--kills 0` leaves the killing out.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.registry.servers import ObjectStore, PostgreSQL, object_store, postgresql
from tests.reliability.nights import night, plan
from tests.reliability.nights.kills import Killer
from tests.reliability.nights.night import Came
from tests.reliability.nights.world import World, running

ALLOWED_SECONDS = 60.0
"""For a night in which there is nothing new to learn."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tenants", type=int, default=40)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--killed-tenants", type=int, help="of the night of kills; default: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tenants, faults = plan.tenants(arguments.tenants), []
    folder = Path(tempfile.mkdtemp(prefix="tuneline-nights-"))
    plan.write_recipe(folder)
    print(f"in {folder}", file=sys.stderr, flush=True)
    with postgresql() as database, object_store(_made(folder / "s3")) as store:
        os.environ.update(store.environment())
        quiet, found = undisturbed(folder, database, store, tenants)
        faults += found
        if arguments.kills:
            some = tenants if arguments.killed_tenants is None else plan.tenants(arguments.killed_tenants)
            faults += disturbed(folder, database, store, some, quiet, arguments)
    for fault in faults:
        print(f"NOT AS IT HAS TO BE: {fault}")
    if not faults:
        shutil.rmtree(folder)
    print(f"logs and reports: {folder}" if faults else "all as it has to be")
    return 1 if faults else 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def undisturbed(
    folder: Path, database: PostgreSQL, store: ObjectStore, tenants: list[str]
) -> tuple[Came, list[str]]:
    """The night, the one after it with nothing new, and one with a feed that was poisoned later."""
    with running(folder / "quiet", database, store) as world:
        due = night.prepare(world, folder / "night.yaml", tenants)
        came = night.came_to(world, tenants, night.wait_for(world, len(tenants), due))
        show("one night, two workers", came)
        bases = night.base_runs(world)
        print(f"the base was measured: {dict(bases)} (over both workers)")
        faults = [*expected(came, tenants), *came.faults]
        if bases["ran"] != 1 or came.base_measured != 1:
            faults.append(f"the base was measured {bases['ran']} times, and is to be once")
        if not all(came.hosts.values()):
            faults.append(f"one of the workers did nothing: {came.hosts}")
        faults += nothing_new(world, tenants)
        faults += poisoned_later(world, tenants)
        if left := night.unfinished_in_prefect(world):
            faults.append(f"under way for Prefect: {left}")
    return came, faults


def expected(came: Came, tenants: list[str]) -> list[str]:
    """What is not so of a night: sound tenants promoted, the planted ones refused."""
    faults = []
    for tenant in tenants:
        planted = tenant in (plan.POISONED, plan.LAZY)
        if came.states.get(tenant) != ("refused" if planted else "promoted"):
            faults.append(f"{tenant} came to {came.states.get(tenant)}")
        if (came.channels[tenant] is None) != planted:
            faults.append(f"the channel of {tenant} points to {came.channels[tenant]}")
    return faults


def nothing_new(world: World, tenants: list[str]) -> list[str]:
    """The next night: nothing came."""
    before, began = _artifacts(world), time.monotonic()
    rows = [row for name in (plan.FLEET, plan.OTHER) for row in world.tuneline("schedule", "run", name)]
    took = time.monotonic() - began
    states = Counter(row["state"] for row in rows)
    made = _artifacts(world) - before
    print(f"nothing new, {len(tenants)} tenants: {took:.1f} s, {dict(states)}, {made} artifacts made")
    faults = [] if took <= ALLOWED_SECONDS else [f"nothing new took {took:.0f} s"]
    if states != {"unchanged": len(tenants)} or _artifacts(world) != before:
        faults.append(f"a night with nothing new came to {dict(states)}")
    return faults


def poisoned_later(world: World, tenants: list[str]) -> list[str]:
    """A tenant with a live model whose feed is poisoned: refused, and the channel stays."""
    victim = tenants[0]
    with world.registry() as registry:
        before = registry.channels.get(f"{victim}/prod")
        for batch in (1, 2, 3):
            night.add_rows(world, registry, victim, batch, poisoned=True)
    rows = world.tuneline("schedule", "run", plan.FLEET)
    states = Counter(row["state"] for row in rows)
    why = next(row["note"] for row in rows if row["target"] == victim)
    print(f"a live tenant's feed poisoned: {dict(states)}; {victim}: {why}")
    with world.registry() as registry:
        stayed = registry.channels.get(f"{victim}/prod") == before
    return [] if stayed and states["refused"] == 1 else [f"a poisoned feed came to {dict(states)}"]


def _artifacts(world: World) -> int:
    with world.registry() as registry:
        return len(registry.ls(limit=100_000))


def disturbed(
    folder: Path,
    database: PostgreSQL,
    store: ObjectStore,
    tenants: list[str],
    quiet: Came,
    arguments: argparse.Namespace,
) -> list[str]:
    """The same night in another registry, while whoever works on it is killed."""
    with running(folder / "killed", database, store) as world:
        due = night.prepare(world, folder / "night.yaml", tenants)
        mean = quiet.seconds / len(quiet.channels) * len(tenants) / arguments.kills
        # twice as fast as would fill the night without kills, so that all fall into it
        between, draw = (mean / 4, 3 * mean / 4), random.Random(arguments.seed)
        killer = Killer(world, arguments.kills, draw, between, due, len(tenants))
        try:
            seconds = night.wait_for(world, len(tenants), due, killer.hears)
        finally:
            killer.stop()
        cleared = night.cleared(world)
        came = night.came_to(world, tenants, seconds)
        show(f"the same, with kill -9 of {dict(killer.killed)}", came)
        print(f"  started again: {world.restarts}; homes cleared {cleared:.0f} s after the last verdict")
        faults = [*expected(came, tenants), *came.faults]
        if not killer.done:
            faults.append(f"the night was over after {killer.killed.total()} kills")
        if came.channels != {tenant: quiet.channels[tenant] for tenant in tenants}:
            faults.append("other artifacts are live than after the undisturbed night")
        if others := came.made - quiet.made:
            faults.append(f"{len(others)} artifacts are others than the undisturbed night made")
        if len(tenants) == len(quiet.channels) and came.made != quiet.made:
            faults.append(f"{len(quiet.made - came.made)} artifacts of the undisturbed night are missing")
    return faults


def show(title: str, came: Came) -> None:
    """A night as a table of two rows."""
    print(f"{title}: {came.seconds / 60:.1f} min from when it was due to its last verdict")
    states = dict(Counter(came.states.values()))
    print(f"  {states}, {len(came.made)} artifacts, runs in each home: {came.hosts}")


if __name__ == "__main__":
    raise SystemExit(main())
