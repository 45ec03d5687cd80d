"""One night: what is prepared for it, how it is awaited, and what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select

from flows.run.feed_files import add_files
from registry import Registry
from registry.backup.check import registry_problems
from registry.db.tables import artifacts, leases
from registry.leases import is_held
from registry.schedules.occasions import SKIPPED
from tests.reliability.nights import plan
from tests.reliability.nights.world import WORKERS, World

PAUSE_SECONDS = 2.0
LONGEST_SECONDS = 5400.0
CLEARED_SECONDS = 2400.0
"""Until Prefect's looks, one every quarter of an hour for each schedule, have come to both homes."""
OVER_IN_PREFECT = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Came:
    """What a night came to."""

    states: dict[str, str]
    """Tenant → how its last run ended."""
    channels: dict[str, str | None]
    """Tenant → the artifact that its channel points to."""
    made: frozenset[str]
    """Ids of all artifacts."""
    hosts: dict[str, int]
    """Home → how many runs were told of there."""
    base_measured: int
    """Evaluations of the base alone, however often they were asked for."""
    faults: tuple[str, ...]
    seconds: float


def prepare(world: World, recipe: Path, tenants: list[str]) -> datetime:
    """Tenants, their feeds, and both schedules; returns when they are due, the next full minute but one."""
    with world.registry() as registry:
        for tenant in tenants:
            registry.tenants.add(tenant, f"{tenant}/prod", "drill")
            add_rows(world, registry, tenant, 0, poisoned=tenant == plan.POISONED)
    due = (datetime.now(UTC) + timedelta(minutes=2)).replace(second=0, microsecond=0)
    when = ("--cron", f"{due.minute} {due.hour} * * *", "--back-off", "1", "--share-devices")
    common = (str(recipe), "--set", "prepare.source=feed:{tenant}", *when)
    world.tuneline("schedule", "add", plan.FLEET, *common, "--tenants", "t-*", "--at-once", "2")
    hardly = [word for override in plan.HARDLY for word in ("--set", override)]
    world.tuneline("schedule", "add", plan.OTHER, *common, "--tenants", plan.LAZY, *hardly)
    return due


def add_rows(world: World, registry: Registry, tenant: str, batch: int, poisoned: bool = False) -> None:
    """Another batch of rows for a tenant's feed."""
    path = world.folder / "rows.jsonl"
    path.write_text(plan.feed_rows(tenant, batch, poisoned))
    add_files(registry, tenant, path, "drill", tenant)


def wait_for(world: World, count: int, due: datetime, tell: Callable[[int], None] = lambda _: None) -> float:
    """Until `count` runs are over and none is open: seconds since they were due. `tell` hears meanwhile how
    many are over."""
    with world.registry() as registry:
        while True:
            history = registry.scheduled_runs.history()
            open_ones = [run for run in history if not run.over]
            tell(len(history) - len(open_ones))
            if len(history) >= count and not open_ones:
                return time.time() - due.timestamp()
            if time.time() - due.timestamp() > LONGEST_SECONDS:
                raise AssertionError(f"not over: {[(run.target, run.state, run.note) for run in open_ones]}")
            time.sleep(PAUSE_SECONDS)


def cleared(world: World) -> float:
    """Until nothing is left in the homes of what killed processes had begun; how many seconds that took."""
    began = time.monotonic()
    while drafts(world) and time.monotonic() - began < CLEARED_SECONDS:
        time.sleep(PAUSE_SECONDS)
    return time.monotonic() - began


def drafts(world: World) -> list[Path]:
    """What is left in the homes of results that were begun."""
    return [path for name in (*WORKERS, "operator") for path in world.home(name).glob("drafts/*/*")]


def _states(registry: Registry) -> dict[str, str]:
    """Tenant → how the last of its runs ended that began."""
    began = (run for run in reversed(registry.scheduled_runs.history()) if run.state not in SKIPPED)
    return {run.target: run.state for run in began}


def came_to(world: World, tenants: list[str], seconds: float) -> Came:
    """Look at everything that the night left."""
    with world.registry() as registry:
        channels = {tenant: registry.channels.get(f"{tenant}/prod") for tenant in tenants}
        states = _states(registry)
        with registry.database.read() as connection:
            made = frozenset(connection.execute(select(artifacts.c.id)).scalars())
        return Came(
            states,
            {tenant: channel and channel.artifact_id for tenant, channel in channels.items()},
            made,
            {name: len(list(world.home(name).glob("runs/*"))) for name in WORKERS},
            _base_measured(registry),
            (*_faults(world, registry), *_moves_without_decision(registry)),
            seconds,
        )


def base_runs(world: World) -> Counter[str]:
    """How the step that measures the base ended, in the reports of all runs of both workers."""
    ends: Counter[str] = Counter()
    for name in WORKERS:
        for path in world.home(name).glob("runs/*/report.json"):
            rows = json.loads(path.read_text())["stages"]
            ends.update(row["state"] for row in rows if row["label"] == "evaluate base NF4")
    return ends


def _base_measured(registry: Registry) -> int:
    evaluations = registry.ls("evaluation", limit=100_000)
    return sum([edge.relation for edge in one.manifest.parents] == ["evaluation_of"] for one in evaluations)


def _moves_without_decision(registry: Registry) -> list[str]:
    faults = []
    for channel in registry.channels.ls():
        for event in registry.channels.history(channel.name):
            decision = None if event.decision_id is None else registry.gates.get(event.decision_id)
            if decision is None or decision.verdict != "pass" or decision.candidate != event.artifact_id:
                faults.append(
                    f"{channel.name} was moved to {event.artifact_id[:12]} without a passing decision"
                )
    return faults


def _faults(world: World, registry: Registry) -> list[str]:
    """Leases that are held, drafts that are left, artifacts and records that are damaged, flow runs that
    Prefect still thinks of as running."""
    faults = registry_problems(registry)
    registry.schedules.audit()
    with registry.database.read() as connection:
        held = [row for row in connection.execute(select(leases)) if is_held(row)]
    faults += [f"a lease of {row.stage} is held" for row in held]
    faults += [f"a draft is left: {path}" for path in drafts(world)]
    for artifact in registry.ls(limit=100_000):
        faults += [f"{artifact.id[:12]}: {problem}" for problem in registry.verify(artifact.id)]
    return faults


def unfinished_in_prefect(world: World) -> list[str]:
    """Flow runs that Prefect shows as under way, though no process of theirs is left."""
    asked = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    for _ in range(60):  # a look that just began is over soon
        under_way = world.prefect.post("/flow_runs/filter", json=asked).raise_for_status().json()
        if not under_way:
            return []
        time.sleep(PAUSE_SECONDS)
    return [one["name"] for one in under_way]
