"""Times of schedules: when a cron trigger is due, when runs may begin, which night it is.

All in the schedule's time zone. Where clocks change, cron does what Debian's does: a time of night that is
left out is due as the clock has jumped, one that comes twice is due once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from flows.errors import Usage


def check_cron(text: str, zone: str) -> None:
    """Raise `Usage` where the text is no cron expression, or the zone none that this machine knows."""
    check_zone(zone)
    try:
        next(_due(text, zone, datetime.now(UTC)))
    except (CronSimError, StopIteration):
        raise Usage(
            f"cron {text[:60]!r}: expected five fields (minute, hour, day of the month, month, day of the "
            "week) that come true some day, for example '0 3 * * *'"
        ) from None


def check_zone(zone: str) -> None:
    """Raise `Usage` where this machine knows no such time zone."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Usage(
            f"time zone {zone[:60]!r} is not known here; expected a name such as Europe/Berlin or UTC"
        ) from None


def last_due(text: str, zone: str, now: datetime) -> datetime | None:
    """When it was due the last time, `now` included; None where that was more than four years ago."""
    second = now.replace(microsecond=0) + timedelta(seconds=1)
    last = next(_due(text, zone, second, reverse=True), None)
    # backwards, cronsim passes over what was due in the hour that comes twice
    for due in _due(text, zone, last) if last is not None else ():
        if due > now:
            break
        last = due
    return last


def next_due(text: str, zone: str, now: datetime) -> datetime | None:
    """When it is due next, after `now`."""
    return next(_due(text, zone, now), None)


def missed(text: str, zone: str, after: datetime, until: datetime, most: int = 1000) -> int:
    """How often it was due after the one time and before the other; at most `most` are counted."""
    count = 0
    for due in _due(text, zone, after):
        if due >= until or count == most:
            break
        count += 1
    return count


def _due(text: str, zone: str, start: datetime, reverse: bool = False) -> Iterator[datetime]:
    # a time that the clocks left out is given as it would be without the change: in UTC it is the right one
    return (due.astimezone(UTC) for due in CronSim(text, start.astimezone(ZoneInfo(zone)), reverse=reverse))


def opens(window: str | None, zone: str, now: datetime) -> datetime | None:
    """When runs may begin next; None: now."""
    if window is None:
        return None
    first, last = (time.fromisoformat(part) for part in window.split("-"))
    here = now.astimezone(ZoneInfo(zone))
    clock = here.time()
    inside = first <= clock < last if first < last else clock >= first or clock < last
    if inside:
        return None
    at = datetime.combine(here.date(), first, here.tzinfo)
    return (at if at > here else at + timedelta(days=1)).astimezone(UTC)


def night(zone: str, now: datetime) -> tuple[datetime, datetime]:
    """From the noon before `now` to the next one."""
    here = now.astimezone(ZoneInfo(zone))
    noon = datetime.combine(here.date(), time(12), here.tzinfo)
    begin = noon if here >= noon else noon - timedelta(days=1)
    return begin.astimezone(UTC), (begin + timedelta(days=1)).astimezone(UTC)
