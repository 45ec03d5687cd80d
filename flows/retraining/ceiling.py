"""How much a schedule may compute in a night, and what becomes of the runs that it has no room for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime

from flows.errors import Usage
from flows.formatting import duration
from flows.metrics.rates import Prices
from flows.retraining.times import night
from registry import Registry
from registry.schedules.schedules import Schedule


def enforce_ceiling(
    registry: Registry, schedule: Schedule, now: datetime, rates: Prices | None, report: Callable[[str], None]
) -> None:
    """Once it is reached nothing more begins tonight: what its time comes for again is skipped, and whatever
    else waits does so until the next night, or until the ceiling is raised. Raises as `over_ceiling` does."""
    reached = over_ceiling(registry, schedule, now, rates)
    runs, next_night = registry.scheduled_runs, night(schedule.definition.zone, now)[1]
    for run in runs.open(schedule.name):
        if run.state != "waiting":
            continue
        if reached is None:
            if run.begins == next_night.timestamp():  # it was put off, and there is room by now
                runs.put_off(run, "", 0.0)
        elif run.trigger == "cron":
            if runs.put_off(run, reached):
                report(f"{run.target}: {reached}")
        elif run.begins < next_night.timestamp():
            later = f"{reached}; it waits until {next_night:%Y-%m-%d %H:%M} UTC"
            if runs.put_off(run, later, next_night.timestamp()):
                report(f"{run.target}: {later}")


def over_ceiling(registry: Registry, schedule: Schedule, now: datetime, rates: Prices | None) -> str | None:
    """Why nothing more of the schedule begins tonight; None where it may.

    Raises `Usage` for a ceiling in money without prices.
    """
    limits = schedule.definition.limits
    if limits.night_hours is None and limits.night_cost is None:
        return None
    priced = rates is not None and rates.of_seconds({socket.gethostname(): 0.0}) is not None
    if limits.night_cost is not None and not priced:
        raise Usage(
            f"schedule {schedule.name} has a ceiling of {limits.night_cost:g} a night and there are no "
            "prices of an hour here: set TUNELINE_RATES to a file of rates, or give the ceiling in hours"
        )
    begin, end = night(schedule.definition.zone, now)
    seconds, cost = registry.scheduled_runs.spent(schedule.name, begin, end)
    if limits.night_hours is not None and seconds >= 3600 * limits.night_hours:
        return f"the night's {limits.night_hours:g} h of computing are used up ({duration(seconds)})"
    if limits.night_cost is not None and rates is not None and cost >= limits.night_cost:
        return f"the night's ceiling of {limits.night_cost:g} {rates.currency} is reached ({cost:.2f})"
    return None
