"""Look at a schedule: what became due gets its runs. Anybody may look, as often as they like, at once too.

What happens without us, in which order it is written down:
  a machine that was off    the latest time that was missed is made up for, once; why says how many were
  clocks that change        a time is an instant in UTC and has one occasion; a clock that goes back by less
                            than a day repeats nothing, one that ran ahead by more stops nothing
  a run that is not over    its target is passed over, and that is written down
  failures                  its target waits, twice as long after each one; then it is tried again
  nothing new               written down where a time was due or somebody asked, and for other triggers not
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from flows.execute import EXPECTED
from flows.formatting import duration
from flows.retraining.learning import Learned, Sources
from flows.retraining.targets import Target, recipe_for, targets_of
from flows.retraining.times import last_due, missed
from registry import Registry
from registry.schedules.definition import Cron, NewBase, NewRows
from registry.schedules.occasions import Occasion, Planned, due_at
from registry.schedules.runs import ScheduledRun
from registry.schedules.schedules import Schedule

log = logging.getLogger("tuneline.retrain")

LATE = timedelta(minutes=15)
LONGEST_BACK_OFF = timedelta(days=1)


@dataclass
class Look:
    """One look at one schedule, at one moment."""

    registry: Registry
    schedule: Schedule
    now: datetime
    planned: list[Planned] = field(default_factory=list)
    """Runs that were written down, those decided against too."""

    def __post_init__(self) -> None:
        name = self.schedule.name
        self._sources = Sources(self.registry, watches_rows(self.schedule))
        self._judged: Mapping[str, ScheduledRun] = self.registry.scheduled_runs.last_judged(name)
        self._failed = self.registry.scheduled_runs.failures(name)
        self._learned: dict[str, Learned | str] = {}

    def take(self) -> list[Planned]:
        """Free what died, and give everything that is due its runs. Raises `Usage` for bad tenants."""
        self.registry.scheduled_runs.revive(self.schedule.name)
        targets = targets_of(self.registry, self.schedule.definition)
        for occasion in self.registry.occasions.asked(self.schedule.name):
            if self.schedule.paused and occasion.trigger != "manual":
                continue  # it waits until the schedule goes on
            self._plan(occasion, [self._decided(target) for target in targets])
        if not self.schedule.paused:
            for trigger in self.schedule.definition.triggers:
                if isinstance(trigger, Cron):
                    self._cron(trigger, targets)
                elif isinstance(trigger, NewRows | NewBase):
                    self._watched(trigger, targets)
        return self.planned

    def _plan(self, occasion: Occasion, runs: list[Planned]) -> None:
        if self.registry.occasions.plan(occasion, self.schedule.version, runs):
            self.planned += runs

    def _cron(self, trigger: Cron, targets: list[Target]) -> None:
        zone = self.schedule.definition.zone
        due = last_due(trigger.at, zone, self.now)
        if due is None or due <= self.schedule.created:
            return
        last = self.registry.occasions.latest(self.schedule.name, "cron", self.now + timedelta(days=1))
        if last is not None and due <= last.due:
            return
        since = self.registry.schedules.since(self.schedule, trigger)
        if since is None or due <= since:
            return  # it was not to run then
        why = f"{trigger.at} ({zone})"
        if self.now - due > LATE:
            why += f", {duration((self.now - due).total_seconds())} late: nobody looked then"
        lost = missed(trigger.at, zone, since if last is None else max(since, last.due), due)
        if lost:
            why += f"; made up for {lost} earlier {'time' if lost == 1 else 'times'}, too"
        self._plan(due_at(self.schedule.name, "cron", why, due), [self._decided(t) for t in targets])

    def _watched(self, trigger: NewRows | NewBase, targets: list[Target]) -> None:
        """Targets whose source or base has moved far enough; the others are not written down."""
        busy = {run.target for run in self.registry.scheduled_runs.open(self.schedule.name)}
        due = [
            run
            for target in targets
            if target.name not in busy
            and self._moved(trigger, target)
            and (run := self._decided(target)).state == "waiting"
        ]
        if due:
            why = "the base moved" if isinstance(trigger, NewBase) else "new rows"
            self._plan(due_at(self.schedule.name, trigger.on, why, self.now), due)

    def _moved(self, trigger: NewRows | NewBase, target: Target) -> bool:
        learned, last = self._learns(target), self._judged.get(target.name)
        if isinstance(learned, str) or last is None:
            return True  # what cannot be read is for a run to say, which waits longer after each failure
        if isinstance(trigger, NewBase):
            return learned.base_key != last.base_key
        rows, before = learned.rows or 0, last.source_rows or 0
        needed = trigger.count if trigger.count is not None else (trigger.share or 0.0) * before
        return rows - before >= max(1, needed)

    def _decided(self, target: Target) -> Planned:
        """The target's run: it waits, or there is a reason for none."""
        learned, planned = self._learns(target), Planned(target=target.name, channel=target.channel)
        until = self._backs_off_until(target)
        if until is not None and until > self.now:
            failure = self._failed[target.name][0]
            note = f"failed {len(self._failed[target.name])} times, the last one: {failure.note}"
            return planned.model_copy(
                update={"state": "skipped", "note": f"waits until {until:%Y-%m-%d %H:%M} UTC; {note}"}
            )
        if isinstance(learned, str):
            return planned  # the run says what is wrong with its recipe, and counts as failed
        new = {"learned": learned.digest, "base_key": learned.base_key, "source_rows": learned.rows}
        known = nothing_new(learned, self._judged.get(target.name))
        if known is not None:
            return planned.model_copy(update={**new, "state": "unchanged", "note": known})
        return planned.model_copy(update=new)

    def _backs_off_until(self, target: Target) -> datetime | None:
        failed = self._failed.get(target.name)
        if not failed or failed[0].finished is None:
            return None
        if failed[0].finished > self.now + LONGEST_BACK_OFF:
            return None  # the clock had run ahead
        first = timedelta(minutes=self.schedule.definition.limits.back_off_minutes)
        wait = min(first * 2 ** min(len(failed) - 1, 20), LONGEST_BACK_OFF)
        return failed[0].finished + wait

    def _learns(self, target: Target) -> Learned | str:
        """What a run would learn from, or why that cannot be said."""
        if target.name not in self._learned:
            self._learned[target.name] = learns(self.schedule, target, self._sources)
        return self._learned[target.name]


def watches_rows(schedule: Schedule) -> bool:
    """Whether rows of sources have to be counted."""
    return any(isinstance(trigger, NewRows) for trigger in schedule.definition.triggers)


def learns(schedule: Schedule, target: Target, sources: Sources) -> Learned | str:
    """What a run for the target would learn from, or why that cannot be said."""
    try:
        return sources.learned(recipe_for(schedule.definition, target))
    except (*EXPECTED, OSError) as error:
        return str(error)
    except Exception as error:  # a defect of ours about one target is no reason to leave the others alone
        log.exception("schedule %s, %s", schedule.name, target.name)
        return f"{type(error).__name__}: {error} (a defect: its trace is in the log)"


def nothing_new(learned: Learned, last: ScheduledRun | None) -> str | None:
    """Why a run would learn nothing that the target's `last` one did not; None where it would."""
    if last is None or last.learned != learned.digest:
        return None
    return f"nothing new since it was {last.state} on {last.finished:%Y-%m-%d %H:%M} UTC"


def look(registry: Registry, schedule: Schedule, now: datetime | None = None) -> list[Planned]:
    """Give what is due of this schedule its runs; returns them."""
    return Look(registry, schedule, now or datetime.now(UTC)).take()


def coming(schedule: Schedule, now: datetime) -> Iterator[datetime]:
    """When its cron triggers are due next."""
    from flows.retraining.times import next_due

    for trigger in schedule.definition.triggers:
        if isinstance(trigger, Cron) and (due := next_due(trigger.at, schedule.definition.zone, now)):
            yield due
