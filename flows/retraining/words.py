"""A schedule in words."""

from __future__ import annotations

from registry.schedules.definition import ScheduleLimits
from registry.schedules.schedules import Schedule

_OTHERS = {"base": "the base moves", "webhook": "a webhook asks", "drift": "data drift"}


def whom(schedule: Schedule) -> str:
    """For whom it retrains."""
    definition = schedule.definition
    if definition.tenants is not None:
        return f"tenants {definition.tenants}"
    own = str((definition.recipe.get("promote") or {}).get("channel"))
    return ", ".join(definition.channels or (own,))


def when(schedule: Schedule) -> str:
    """Its triggers."""
    words = []
    for trigger in schedule.definition.triggers:
        if trigger.on == "cron":
            words.append(f"{trigger.at} ({schedule.definition.zone})")
        elif trigger.on == "rows":
            much = f"{trigger.count:,}" if trigger.count is not None else f"{trigger.share or 0:.0%}"
            words.append(f"{much} new rows")
        else:
            words.append(_OTHERS[trigger.on])
    return "; ".join(words) or "only when asked"


def limits_in_words(limits: ScheduleLimits) -> list[str]:
    """What it is held to."""
    words = [f"{limits.at_once} at once"]
    words += ["one for each GPU or machine"] if limits.per_device else []
    words += [f"begins {limits.window}"] if limits.window is not None else []
    words += [f"{limits.night_hours:g} h a night"] if limits.night_hours is not None else []
    words += [f"{limits.night_cost:g} a night"] if limits.night_cost is not None else []
    return [*words, f"{limits.back_off_minutes} min after a failure"]
