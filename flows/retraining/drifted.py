"""Ask for retraining where inputs are no longer like the training data."""

from __future__ import annotations

from flows.errors import Usage
from flows.retraining.targets import targets_of
from registry import Registry
from registry.schedules.schedules import Schedule


def ask_schedules(registry: Registry, channel: str, why: str) -> list[str]:
    """Ask each schedule with the trigger `drift` that retrains this channel; their names.

    The next look at a schedule gives it its runs. One that is asked again while it waits is asked once.
    """
    names = [schedule.name for schedule in registry.schedules.ls() if _asked_by(registry, schedule, channel)]
    for name in names:
        registry.occasions.ask(name, "drift", why)
    return names


def _asked_by(registry: Registry, schedule: Schedule, channel: str) -> bool:
    if not any(trigger.on == "drift" for trigger in schedule.definition.triggers):
        return False
    try:
        targets = targets_of(registry, schedule.definition)
    except Usage:  # the next look at that schedule says what is wrong with it
        return False
    return any(target.channel == channel for target in targets)
