"""The upgrades of a registry. Each is a schedule without triggers whose channels have recipes of their own:
its runs have a schedule's limits, leases and attempts, and whoever works on schedules goes on with it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.errors import FlowError, Usage
from flows.retraining.lane import HAD_IT, Lane
from flows.retraining.targets import Target, recipe_for, targets_of
from flows.settings import Settings
from flows.upgrades.forms import served_as
from flows.upgrades.plan import UpgradePlan
from registry import Registry
from registry.artifacts import digest
from registry.channels.channels import ChannelEvent
from registry.errors import NotFound
from registry.schedules.definition import Definition, OwnRecipe, ScheduleLimits
from registry.schedules.occasions import Planned, due_at
from registry.schedules.runs import ScheduledRun
from registry.schedules.schedules import checked

UPGRADE = "upgrade"
"""What its name begins with, and what its runs are for."""
_ONE_AT_A_TIME = digest(["upgrades begin"])


@dataclass(frozen=True)
class Upgraded:
    """A channel of an upgrade: what was to be done, what its run came to."""

    run: ScheduledRun
    does: str
    state: str
    note: str


def busy(registry: Registry) -> dict[str, str]:
    """Channel → the upgrade that it waits in, or is at work in."""
    return {
        run.channel: schedule.name
        for schedule in registry.schedules.ls()
        if schedule.definition.own
        for run in registry.scheduled_runs.open(schedule.name)
    }


def begin(registry: Registry, plan: UpgradePlan, limits: ScheduleLimits, zone: str, who: str) -> str:
    """Write the plan down, with a run for each channel; returns its name. Raises `Usage` where another
    upgrade was begun for one of its channels meanwhile."""
    now = datetime.now(UTC)
    name = f"{UPGRADE}-{now:%Y%m%d}-{secrets.token_hex(3)}"
    per_channel = {
        step.channel: OwnRecipe(recipe=step.recipe.model_dump(mode="json"), what=step.does, why=step.why)
        for step in plan.begun
        if step.recipe is not None
    }
    definition = checked(
        recipe_name=f"to {plan.to}",
        recipe={},
        own=per_channel,
        channels=tuple(per_channel),
        zone=zone,
        limits=limits,
    )
    states = {"nothing": "unchanged", "refused": "skipped"}
    runs = [
        Planned(
            target=step.channel, channel=step.channel, state=states.get(step.does, "waiting"), note=step.why
        )
        for step in plan.steps
    ]
    token = registry.leases.wait_for(_ONE_AT_A_TIME, UPGRADE, patience=Settings().patience())
    try:
        taken = busy(registry)
        if both := sorted(per_channel.keys() & taken.keys()):
            raise Usage(
                f"{', '.join(both)}: {taken[both[0]]} has begun meanwhile; let it end, then plan again"
            )
        schedule, _ = registry.schedules.put(name, definition, who, replace=False)
        occasion = due_at(name, UPGRADE, f"to {plan.to}, by {who}", now)
        registry.occasions.plan(occasion, schedule.version, runs)
    finally:
        registry.leases.release(_ONE_AT_A_TIME, token)
    return name


def go_on(registry: Registry, settings: Settings, name: str, who: str, report: Callable[[str], None]) -> None:
    """Do what waits of it, also what a process left that is gone; at its end the schedule goes.

    Raises as `Lane.work` does.
    """
    if not any(schedule.name == name for schedule in registry.schedules.ls()):
        return
    registry.scheduled_runs.revive(name)
    Lane(registry, settings, name, report=report).work()
    if not registry.scheduled_runs.open(name):
        with suppress(NotFound):  # its last run took it out, or somebody undid it meanwhile
            registry.schedules.remove(name, who)


def definition_of(registry: Registry, name: str) -> Definition:
    """What an upgrade was to do. Raises `Usage`, also for a schedule of somebody's that is only called so."""
    try:
        states = [event.state for event in registry.schedules.audit(name)] if name.startswith(UPGRADE) else []
    except NotFound:
        states = []
    if not states or not states[0]["definition"].get("own"):
        raise Usage(f"no upgrade {name[:64]!r}; `tuneline upgrade-base` lists them")
    return Definition.model_validate(states[0]["definition"])


def upgraded(registry: Registry, name: str) -> list[Upgraded]:
    """Its channels by name, each as it is now. Raises `Usage` for no such upgrade."""
    per_channel = definition_of(registry, name).own
    runs = {run.channel: run for run in registry.scheduled_runs.history(name, limit=100_000)}
    return [
        Upgraded(run, per_channel[channel].what if channel in per_channel else "–", *_now(registry, run))
        for channel, run in sorted(runs.items())
    ]


def _now(registry: Registry, run: ScheduledRun) -> tuple[str, str]:
    """Its state and why; a canary may have moved the channel after the run was over, and an undo back."""
    events = registry.channels.history(run.channel) if run.artifact_id is not None else []
    event = move_of(events, run)
    if event is None or run.state == "failed":
        same = run.state == "passed" and run.note.endswith(HAD_IT)
        return run.state, "with the artifact that it has: no channel has to move" if same else run.note
    for later in events[events.index(event) + 1 :]:
        if is_undo(later, run.schedule):
            return "undone", f"generation {later.generation}, by {later.who}"
    return "promoted", f"generation {event.generation}"


def move_of(events: Sequence[ChannelEvent], run: ScheduledRun) -> ChannelEvent | None:
    """Of the channel's history, the move to what the run made: by the run, or later by its canary."""
    if run.state not in ("passed", "promoted", "failed"):
        return None  # whoever moved it to what a gate had refused took that upon themselves
    return next((event for event in events if _is_to(event, run)), None)


def undo_reason(name: str) -> str:
    """What stands in the history of a channel that the undoing of this upgrade moved back."""
    return f"{name} is undone"


def is_undo(event: ChannelEvent, name: str) -> bool:
    """Whether this event took the upgrade back."""
    return event.action == "rollback" and event.reason == undo_reason(name)


def _is_to(event: ChannelEvent, run: ScheduledRun) -> bool:
    return event.action == "move" and event.artifact_id == run.artifact_id and event.at >= run.due


def names(registry: Registry) -> list[str]:
    """Every upgrade, the newest first."""
    begun = [
        (event.at, event.schedule)
        for event in registry.schedules.audit()
        if event.action == "add" and event.state["definition"].get("own")
    ]
    return [name for _, name in sorted(begun, reverse=True)]


def left_behind(registry: Registry, name: str) -> dict[str, list[str]]:
    """Schedule → the channels that the upgrade moved, and that it would retrain as they were before."""
    upgrade = definition_of(registry, name)
    moved = {row.run.channel for row in upgraded(registry, name) if row.state in ("promoted", "passed")}
    schedules: dict[str, list[str]] = {}
    for schedule in registry.schedules.ls():
        if not schedule.definition.own:
            with suppress(FlowError):  # what is no recipe retrains nothing
                for target in targets_of(registry, schedule.definition):
                    if target.channel in moved and _otherwise(schedule.definition, upgrade, target):
                        schedules.setdefault(schedule.name, []).append(target.channel)
    return {schedule: sorted(channels) for schedule, channels in schedules.items()}


def _otherwise(schedule: Definition, upgrade: Definition, target: Target) -> bool:
    """Whether its next run would make the channel another base or form than the upgrade did."""
    return served_as(recipe_for(schedule, target)) != served_as(recipe_for(upgrade, target))
