"""Every channel that an upgrade moved goes back to what it served before, unless it moved since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flows.errors import Usage
from flows.formatting import short
from flows.upgrades.fleet import definition_of, move_of
from registry import Registry
from registry.errors import RegistryError
from registry.schedules.runs import ScheduledRun

Came = Literal["back", "stopped", "as before", "refused"]


@dataclass(frozen=True)
class Undone:
    """What became of one channel, and why."""

    channel: str
    came: Came
    note: str


def undo(registry: Registry, name: str, who: str) -> list[Undone]:
    """Take an upgrade back; what of it still waits is skipped. Again, it does what is left to do.

    Raises `Usage` for no such upgrade, and while one of its runs is at work.
    """
    definition_of(registry, name)
    if any(schedule.name == name for schedule in registry.schedules.ls()):
        if registry.scheduled_runs.running(name):
            raise Usage(f"{name} is still at work: stop it where it runs, then undo it")
        registry.schedules.remove(name, who)
    runs = {run.channel: run for run in registry.scheduled_runs.history(name, limit=100_000)}
    return [_undone(registry, name, run, who) for _, run in sorted(runs.items())]


def _undone(registry: Registry, name: str, run: ScheduledRun, who: str) -> Undone:
    try:
        rollout = registry.rollouts.current(run.channel)
        if rollout is not None and rollout.candidate == run.artifact_id and rollout.canary_percent:
            registry.rollouts.stop(run.channel, who, f"{name} is undone")
            return Undone(run.channel, "stopped", "its canary was stopped")
        moved = move_of(registry, run)
        if moved is None:
            return Undone(run.channel, "as before", f"it did not move: {run.state}")
        last = registry.channels.history(run.channel)[-1]
        if last.generation != moved.generation:
            if last.action == "rollback" and last.reason == _reason(name):
                return Undone(run.channel, "as before", f"was undone at generation {last.generation}")
            return Undone(
                run.channel, "refused", f"moved since: generation {last.generation}, by {last.who or 'a run'}"
            )
        back = registry.channels.rollback(run.channel, _reason(name), who, moved.generation)
    except RegistryError as error:  # what is wrong with one is no matter of the others
        return Undone(run.channel, "refused", str(error))
    return Undone(run.channel, "back", f"{short(back.artifact_id)}, generation {back.generation}")


def _reason(name: str) -> str:
    return f"{name} is undone"
