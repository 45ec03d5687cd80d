"""What a night came to: what ran, what was promoted and by how much, what was refused and why, what
drifted, what it cost.

A night goes from noon to noon in a time zone, and has the runs of the schedules of that zone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from flows.formatting import duration, short, template_environment
from flows.report.page import write_whole
from flows.retraining.times import night
from registry import Registry
from registry.errors import RegistryError
from registry.schedules.runs import ScheduledRun

log = logging.getLogger("tuneline.retrain")

ORDER = ("promoted", "refused", "failed", "passed", "skipped", "unchanged", "running", "waiting")
"""What somebody should see first."""
MOST_TOLD = 100
"""Runs that webhooks are told of one by one; the page has all of them."""


@dataclass(frozen=True)
class NightRow:
    """A run, and what the gate measured, in its own sentences."""

    run: ScheduledRun
    measured: tuple[str, ...]


@dataclass(frozen=True)
class Night:
    """All runs of a night, what needs somebody first. `cost` is of those with a price, None without any."""

    begin: datetime
    end: datetime
    zone: str
    rows: tuple[NightRow, ...]
    drifted: tuple[str, ...] = ()
    """What drift was shown of; each is a sentence that a schedule was asked with."""

    @property
    def name(self) -> str:
        """The date of its evening."""
        return f"{self.begin.astimezone(ZoneInfo(self.zone)):%Y-%m-%d}"

    @property
    def counts(self) -> dict[str, int]:
        """State → how many, in the order of the rows."""
        states = [row.run.state for row in self.rows]
        return {state: states.count(state) for state in ORDER if state in states}

    @property
    def seconds(self) -> float:
        return sum(row.run.seconds or 0.0 for row in self.rows)

    @property
    def cost(self) -> float | None:
        costs = [row.run.cost for row in self.rows if row.run.cost is not None]
        return sum(costs) if costs else None

    @property
    def about(self) -> Mapping[str, object]:
        """For webhooks: names and figures, no data."""
        return {
            "night": self.name,
            "zone": self.zone,
            "counts": self.counts,
            "seconds": round(self.seconds, 1),
            "cost": self.cost,
            "promoted": [row.run.channel for row in self.rows if row.run.state == "promoted"],
            "refused": [row.run.channel for row in self.rows if row.run.state == "refused"],
            "failed": [row.run.channel for row in self.rows if row.run.state == "failed"],
            "drifted": list(self.drifted),
            "runs": [_told_of(row) for row in self.rows if row.run.state != "unchanged"][:MOST_TOLD],
        }


def _told_of(row: NightRow) -> dict[str, str]:
    run = row.run
    why = " ".join(row.measured) or run.note
    return {"target": run.target, "channel": run.channel, "state": run.state, "why": why}


def night_of(registry: Registry, zone: str, at: datetime) -> Night:
    """The night that `at` is in, of the schedules of this time zone, those removed since too."""
    begin, end = night(zone, at)
    zones = {event.schedule: event.state["definition"]["zone"] for event in registry.schedules.audit()}
    runs = [
        run
        for run in registry.scheduled_runs.history(None, begin, end, limit=100_000)
        if zones.get(run.schedule) == zone and run.due < end
    ]
    runs.sort(key=lambda run: (ORDER.index(run.state), run.schedule, run.target))
    asked = registry.occasions.between(begin, end, "drift")
    drifted = dict.fromkeys(occasion.why for occasion in asked if zones.get(occasion.schedule) == zone)
    rows = tuple(NightRow(run, _measured(registry, run)) for run in runs)
    return Night(begin, end, zone, rows, tuple(drifted))


def _measured(registry: Registry, run: ScheduledRun) -> tuple[str, ...]:
    if run.decision_id is None:
        return ()
    rules = registry.gates.get(run.decision_id).evidence.get("rules", ())
    return tuple(rule["sentence"] for rule in rules)


def html_page(night: Night) -> str:
    """The night as one HTML document that loads nothing from anywhere."""
    environment = template_environment(autoescape=True)
    environment.filters.update(duration=duration, short=short)
    return environment.get_template("night.html.j2").render(night=night)


def tell_of_last(registry: Registry, zone: str, now: datetime) -> Path | None:
    """Tell of the night that ended last, where it had runs or drift and has no page here yet; the page.

    Webhooks are told once, whoever tells them.
    """
    last = night(zone, now)[0] - timedelta(hours=1)
    evening = night(zone, last)[0].astimezone(ZoneInfo(zone))
    path = registry.home / "nights" / f"{evening:%Y-%m-%d}-{zone.replace('/', '-')}.html"
    if path.exists():
        return None
    last_night = night_of(registry, zone, last)
    if not last_night.rows and not last_night.drifted:
        return None
    registry.webhooks.tell(
        "night", last_night.about, once=f"{last_night.begin.isoformat()} {last_night.zone}"
    )
    write_whole(html_page(last_night), path)  # last: while there is no page it is told again
    return path


def tell_if_over(registry: Registry, zone: str, now: datetime) -> None:
    """`tell_of_last`, whose trouble is no matter of the runs: the next look tells it."""
    try:
        tell_of_last(registry, zone, now)
    except (RegistryError, OSError) as error:
        log.error("the last night of %s is not told yet: %s", zone, error)
