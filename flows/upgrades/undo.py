"""Every channel that an upgrade moved goes back to what it served before, unless it moved since."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from flows.errors import Usage
from flows.formatting import short
from flows.upgrades.fleet import definition_of, is_undo, move_of, undo_reason
from registry import Registry
from registry.channels.channels import ChannelEvent
from registry.errors import NotFound, RegistryError
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

    Raises `Usage` for no such upgrade, and while one of its runs is at work: no other one begins then.
    """
    definition_of(registry, name)
    if any(schedule.name == name for schedule in registry.schedules.ls()):
        with suppress(NotFound):  # it has just come to its end
            registry.schedules.remove(name, who)
    if registry.scheduled_runs.running(name):  # asked after the removal, from which on none begins
        raise Usage(
            f"{name} is still at work: stop it where it runs, then undo it; nothing more of it begins"
        )
    runs = {run.channel: run for run in registry.scheduled_runs.history(name, limit=100_000)}
    return [_undone(registry, name, run, who) for _, run in sorted(runs.items())]


def _undone(registry: Registry, name: str, run: ScheduledRun, who: str) -> Undone:
    try:
        rollout = registry.rollouts.current(run.channel)
        if rollout is not None and rollout.candidate == run.artifact_id and rollout.canary_percent:
            registry.rollouts.stop(run.channel, who, undo_reason(name))
            return Undone(run.channel, "stopped", "its canary was stopped")
        events = registry.channels.history(run.channel)
        moved = move_of(events, run)
        if moved is None:
            if run.artifact_id is None and (by := _moved_by_whom(events, run)) is not None:
                why = f"generation {by.generation} came after its run had begun, of which no end is known"
                return Undone(run.channel, "refused", f"{why}: look at it, then tuneline rollback")
            return Undone(run.channel, "as before", f"it did not move: {run.state}")
        last = events[-1]
        if last.generation != moved.generation:
            if is_undo(last, name):
                return Undone(run.channel, "as before", f"was undone at generation {last.generation}")
            return Undone(
                run.channel, "refused", f"moved since: generation {last.generation}, by {last.who or 'a run'}"
            )
        back = registry.channels.rollback(run.channel, undo_reason(name), who, moved.generation)
    except RegistryError as error:  # what is wrong with one is no matter of the others
        return Undone(run.channel, "refused", str(error))
    return Undone(run.channel, "back", f"{short(back.artifact_id)}, generation {back.generation}")


def _moved_by_whom(events: Sequence[ChannelEvent], run: ScheduledRun) -> ChannelEvent | None:
    """The channel's latest event, where a run without an end may have caused it: its process was killed."""
    if run.started is None or not events or events[-1].action != "move" or events[-1].at < run.started:
        return None
    return events[-1]
