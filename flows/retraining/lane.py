"""Do the runs of a schedule that wait, one after the other, until none may begin.

Several lanes, on several machines, share a schedule's runs: the registry gives each run to one of them. What
goes wrong with one run ends no other. While the database is away, what is to be written waits for it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from flows.errors import Usage
from flows.execute import EXPECTED, Result, execute
from flows.gates.gate import deciding
from flows.metrics.rates import Prices, read_rates
from flows.planning.machine import machine
from flows.retraining.ceiling import enforce_ceiling
from flows.retraining.device import own_device
from flows.retraining.learning import Sources
from flows.retraining.look import learns, nothing_new, watches_rows
from flows.retraining.targets import recipe_for, targets_of
from flows.retraining.times import opens
from flows.run.child import KeptWorker
from flows.run.prefect_view import ParentFlow
from flows.settings import Settings
from registry import Registry
from registry.errors import Conflict, Corrupt, Lost, NotFound, StoreFailed, StoreRefused
from registry.schedules.runs import ATTEMPTS, Claim, Ended, ScheduledRun
from registry.schedules.schedules import Schedule

log = logging.getLogger("tuneline.retrain")

T = TypeVar("T")

AWAY_SECONDS = 1800.0
"""How long a lane waits for a database that does not answer, before it gives up."""
PAUSE_SECONDS = 2.0
HAD_IT = "had it already"
"""How the note ends of a run whose candidate its channel serves."""


@dataclass
class Lane:
    """One lane. `told` hears what happens, a line at a time; `parent`: the Prefect flow run that it is."""

    registry: Registry
    settings: Settings
    schedule: str
    parent: ParentFlow | None = None
    report: Callable[[str], None] = log.info
    ended: list[tuple[ScheduledRun, Ended]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rates: Prices | None = None if self.settings.rates is None else read_rates(self.settings.rates)
        self._stand_by = KeptWorker(self.registry.home / "stand-by.log")

    def work(self) -> list[tuple[ScheduledRun, Ended]]:
        """Do what waits; returns the runs with their ends. Raises KeyboardInterrupt, with the run put back,
        and StoreFailed where the database stayed away for `AWAY_SECONDS`."""
        self._patiently(self.registry.sweep)
        try:
            while (schedule := self._patiently(self._standing)) is not None:
                claim = self._patiently(partial(self._next, schedule))
                if claim is None:
                    break
                self._do(schedule, claim)
        finally:
            self._stand_by.close()
        self._patiently(self._end_upgrade)
        return self.ended

    def _end_upgrade(self) -> None:
        """An upgrade is a schedule until its last run is over, whoever does that one."""
        schedule, runs = self._standing(), self.registry.scheduled_runs
        if schedule is None or not schedule.definition.own:
            return
        if runs.history(schedule.name, limit=1) and not runs.open(schedule.name):
            with suppress(NotFound):
                self.registry.schedules.remove(schedule.name, "its last run")

    def _standing(self) -> Schedule | None:
        """The schedule; None where it was removed meanwhile."""
        return next((s for s in self.registry.schedules.ls() if s.name == self.schedule), None)

    def _next(self, schedule: Schedule) -> Claim | None:
        enforce_ceiling(self.registry, schedule, datetime.now(UTC), self.rates, self.report)
        self.registry.scheduled_runs.revive(schedule.name)  # the next look may be a quarter of an hour away
        return self.registry.scheduled_runs.claim(
            schedule.name, schedule.definition.limits.at_once, "manual" if _by_hand(schedule) else None
        )

    def _do(self, schedule: Schedule, claim: Claim) -> None:
        run, runs = claim.run, self.registry.scheduled_runs
        self.report(f"{run.target}: begins, for {run.trigger}")
        with runs.kept(claim):
            ended = self._end_of(schedule, claim)
            if ended is None:
                return
            try:
                self._patiently(partial(runs.finish, claim, ended))
            except Lost as error:  # another has the run by now, and finds all of ours in the registry
                self.report(f"{run.target}: {error}")
                return
        self.ended.append((run, ended))
        self.report(f"{run.target}: {ended.state}{ended.note and ', '}{ended.note}")

    def _end_of(self, schedule: Schedule, claim: Claim) -> Ended | None:
        """How the run ended; None where it was put back. Raises what no run could begin with."""
        try:
            with self._device(schedule):
                if claim.run.trigger == "manual" or not _by_hand(schedule):
                    ended = self._run(schedule, claim.run)
                    return self._patiently(partial(self._credited, claim, ended))
            self._put_back(claim, "its hours were over before a device was free", failed=False)
        except StoreFailed as error:
            self._put_back(claim, f"begins again: {error}")
        except KeyboardInterrupt:
            self._put_back(claim, "it was interrupted", failed=False)
            raise KeyboardInterrupt(f"interrupted; the run of {claim.run.target} waits again") from None
        except BaseException as error:
            self._put_back(claim, f"it was stopped: {str(error) or type(error).__name__}")
            raise
        return None

    def _put_back(self, claim: Claim, note: str, failed: bool = True) -> None:
        with suppress(Lost):  # by now it is another's
            self._patiently(partial(self.registry.scheduled_runs.put_back, claim, note, failed=failed))

    def _run(self, schedule: Schedule, run: ScheduledRun) -> Ended:
        """Raises StoreFailed where the database or the store was away: nobody's fault, so it begins again."""
        try:
            targets = self._patiently(partial(targets_of, self.registry, schedule.definition))
        except Usage as error:
            return Ended(state="failed", note=str(error))
        same = (target for target in targets if (target.name, target.channel) == (run.target, run.channel))
        target = next(same, None)
        if target is None:  # a tenant's data goes into no channel that is not the tenant's any more
            return Ended(state="skipped", note=f"it is not to be retrained on {run.channel} any more")
        learned = learns(schedule, target, Sources(self.registry, watches_rows(schedule)))
        learned_from: dict[str, Any] = {}
        if not isinstance(learned, str):
            learned_from = {
                "learned": learned.digest,
                "base_key": learned.base_key,
                "source_rows": learned.rows,
            }
            last = self._patiently(partial(self.registry.scheduled_runs.last_judged, schedule.name))
            if (note := nothing_new(learned, last.get(target.name))) is not None:
                return Ended(state="unchanged", note=note, **learned_from)
        try:
            recipe = recipe_for(schedule.definition, target)
            result = execute(recipe, self.settings, self.parent, self._shared())
        except EXPECTED as error:
            _begin_again_after(error, run)
            return Ended(state="failed", note=str(error), **learned_from)
        except Exception as error:  # a defect of ours in one run is no reason to leave the others alone
            log.exception("schedule %s, %s", schedule.name, run.target)
            note = f"{type(error).__name__}: {error} (a defect: its trace is in the log)"
            return Ended(state="failed", note=note, **learned_from)
        if isinstance(result.error, KeyboardInterrupt):
            raise result.error
        _begin_again_after(result.error, run)
        return ended_as(result, self.rates).model_copy(update=learned_from)

    def _credited(self, claim: Claim, ended: Ended) -> Ended:
        """Promoted, where an earlier attempt of this run moved the channel and could not say so any more."""
        if not claim.again or ended.state != "passed":
            return ended
        run = claim.run
        try:
            moves = self.registry.channels.history(run.channel)
        except Corrupt:  # what is damaged is for `tuneline channels` to say, and ends no lane
            return ended
        last, ours = (moves[-1] if moves else None), ("move", ended.artifact_id)
        if last is None or (last.action, last.artifact_id) != ours or last.at < run.due:
            return ended
        note = f"generation {last.generation}, by an earlier attempt of this run"
        moved = {"state": "promoted", "note": note, "decision_id": last.decision_id}
        return ended.model_copy(update=moved)

    def _shared(self) -> KeptWorker | None:
        """What runs the stages of all runs; none with GPUs, where each run sees another one."""
        return None if machine(self.settings.root).cuda else self._stand_by

    @contextmanager
    def _device(self, schedule: Schedule) -> Iterator[None]:
        if not schedule.definition.limits.per_device:
            yield
            return
        with own_device(self.settings, len(machine(self.settings.root).cuda), self.report):
            yield

    def _patiently(self, work: Callable[[], T]) -> T:
        """`work`'s result; while the database does not answer, or others keep it, it is tried again."""
        began = time.monotonic()
        while True:
            try:
                return work()
            except (StoreFailed, Conflict) as error:
                final = isinstance(error, StoreRefused | Lost)
                if final or time.monotonic() - began >= AWAY_SECONDS:
                    raise
                self.report(f"waiting for the database: {error}")
                time.sleep(PAUSE_SECONDS)


def _by_hand(schedule: Schedule) -> bool:
    """Whether only what was asked for by hand may begin now."""
    definition = schedule.definition
    closed = opens(definition.limits.window, definition.zone, datetime.now(UTC)) is not None
    return schedule.paused or closed


def is_busy(registry: Registry, schedule: Schedule, until: float) -> bool:
    """Whether a run is at work, or one that waits may begin before `until`, in seconds since the epoch."""
    runs = registry.scheduled_runs.open(schedule.name)
    return any(run.state == "running" for run in runs) or bool(ready(runs, schedule, until))


def ready(runs: Iterable[ScheduledRun], schedule: Schedule, until: float) -> list[ScheduledRun]:
    """Those of the schedule's `runs` that wait and may begin before `until`, in seconds since the epoch."""
    only_by_hand = _by_hand(schedule)
    return [
        run
        for run in runs
        if run.state == "waiting" and run.begins < until and (run.trigger == "manual" or not only_by_hand)
    ]


def _begin_again_after(error: BaseException | None, run: ScheduledRun) -> None:
    """Raise StoreFailed again where the run may have another attempt: the database or the store was away."""
    away = isinstance(error, StoreFailed) and not isinstance(error, StoreRefused)
    if away and run.attempts < ATTEMPTS:
        assert error is not None
        raise error


def ended_as(result: Result, rates: Prices | None) -> Ended:
    """How a run of a recipe ended, as its schedule keeps it."""
    report, outcome = result.report, result.outcome
    seconds = sum(row.seconds for row in report.stages if row.state == "ran")
    cost = None if rates is None else rates.of_seconds({socket.gethostname(): seconds})
    ended = Ended(state="failed", run=report.run_id, seconds=seconds, cost=cost)
    verdict = outcome.verdict
    decided = {} if verdict is None else {"decision_id": verdict.id, "artifact_id": verdict.candidate}
    if result.error is not None:
        failed = {"note": str(result.error) or type(result.error).__name__}
        # after its channel had moved it failed to start an engine, say: who undoes it has to know
        return ended.model_copy(update=failed if outcome.promoted is None else {**decided, **failed})
    assert verdict is not None, "a schedule's recipe has a gate"
    if not verdict.passed:
        decision = verdict.decision
        why = next((rule.sentence for rule in deciding(decision)), "")
        note = f"gate: {decision.verdict}; {why}"
        return ended.model_copy(update={**decided, "state": "refused", "note": note})
    channel = outcome.channel
    assert channel is not None
    tried = next((row for row in reversed(report.stages) if row.stage == "promote"), None)
    if channel.artifact_id != verdict.candidate:  # a canary decides, or has decided against it
        note = f"{channel.name} stays where it is: {tried.note if tried is not None else 'a canary decides'}"
        return ended.model_copy(update={**decided, "state": "passed", "note": note})
    moved = tried is not None and tried.state == "ran"
    note = f"generation {channel.generation}" if moved else f"{channel.name} {HAD_IT}"
    return ended.model_copy(update={**decided, "state": "promoted" if moved else "passed", "note": note})
