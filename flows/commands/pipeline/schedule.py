"""`tuneline schedule`: what each does."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flows.commands.home import home, open_registry
from flows.commands.reply import Reply, print_table
from flows.commands.serving.tenants import who
from flows.errors import FlowError, Usage
from flows.formatting import duration, plain
from flows.retraining.words import limits_in_words, when, whom
from flows.run.readers import remark
from flows.settings import Settings
from registry import Registry
from registry.artifacts import JsonObject
from registry.errors import RegistryError
from registry.schedules.definition import Definition
from registry.schedules.runs import ScheduledRun
from registry.schedules.schedules import Schedule, checked

MOST_RUNS = 10_000


def add(arguments: argparse.Namespace) -> Reply:
    """A new schedule; its recipe is checked for its first target, as a run would."""
    from flows.recipe import load
    from flows.retraining.targets import recipe_for, targets_of
    from flows.retraining.times import check_cron, check_zone

    check_zone(arguments.zone)
    for text in arguments.cron:
        check_cron(text, arguments.zone)
    recipe = load(arguments.recipe).model_dump(mode="json")
    definition = _definition(arguments, recipe)
    with open_registry(make=True) as registry:
        targets = targets_of(registry, definition)
        for target in targets[:1]:
            recipe_for(definition, target)
        schedule, token = registry.schedules.put(
            arguments.name, definition, who(arguments), replace=arguments.replace
        )
        tell_prefect(registry)
    lines = [f"schedule {schedule.name}, version {schedule.version}: {whom(schedule)}, {when(schedule)}"]
    if not targets:
        lines.append(f"No tenant is called so yet: {definition.tenants!r}.")
    if token is not None:
        lines += [token, "This token is not shown again: `Authorization: Bearer` of POST /v1/schedules/run."]
    return Reply({**_document(schedule), "token": token}, lambda: print("\n".join(lines)))


def _definition(arguments: argparse.Namespace, recipe: Mapping[str, Any]) -> Definition:
    triggers: list[dict[str, object]] = [{"on": "cron", "at": text} for text in arguments.cron]
    if arguments.rows is not None:
        triggers.append({"on": "rows", **_rows(arguments.rows)})
    triggers += [{"on": name} for name in ("base", "webhook", "drift") if getattr(arguments, name)]
    return checked(
        recipe_name=str(arguments.recipe),
        recipe=recipe,
        overrides=tuple(arguments.set),
        channels=tuple(arguments.channel),
        tenants=arguments.tenants,
        triggers=triggers,
        zone=arguments.zone,
        limits=limits_of(arguments),
    )


def limits_of(arguments: argparse.Namespace) -> dict[str, object]:
    """What `add_limits` takes, unchecked, as a schedule's `limits` has it."""
    return {
        "at_once": arguments.at_once,
        "per_device": not arguments.share_devices,
        "window": arguments.window,
        "night_hours": arguments.night_hours,
        "night_cost": arguments.night_cost,
        "back_off_minutes": arguments.back_off,
    }


def _rows(text: str) -> dict[str, float]:
    number, percent, rest = text.strip().partition("%")
    try:
        given = float(number)
    except ValueError:
        given = 0.0
    if rest or not 0 < given < 10**9 or (not percent and given != int(given)):
        raise Usage(f"--rows {text[:40]}: expected a number of rows or a share, such as 500 or 10%")
    return {"share": given / 100} if percent else {"count": int(given)}


def ls(arguments: argparse.Namespace) -> Reply:
    """All schedules."""
    with open_registry() as registry:
        schedules = registry.schedules.ls()
        latest = {s.name: registry.scheduled_runs.history(s.name, limit=1) for s in schedules}
    rows = [
        (
            schedule.name + (" (paused)" if schedule.paused else ""),
            schedule.definition.recipe_name,
            whom(schedule),
            when(schedule),
            _next(schedule),
            next((f"{run.target}: {run.state}" for run in latest[schedule.name]), "–"),
        )
        for schedule in schedules
    ]

    def show() -> None:
        if not rows:
            print("no schedule yet; `tuneline schedule add NAME RECIPE --cron '0 3 * * *'` makes one")
            return
        print_table("", ("name", "recipe", "for", "when", "next (UTC)", "latest run"), rows)

    return Reply([_document(schedule) for schedule in schedules], show)


def show(arguments: argparse.Namespace) -> Reply:
    """One schedule, and its latest runs."""
    if not 1 <= arguments.limit <= 10_000:
        raise Usage(f"--limit {arguments.limit}: expected a number of rows from 1 to 10000")
    with open_registry() as registry:
        schedule = registry.schedules.get(arguments.name)
        runs = registry.scheduled_runs.history(schedule.name, limit=arguments.limit)
    document = {**_document(schedule), "runs": [run.model_dump(mode="json") for run in runs]}

    def text() -> None:
        state = "paused" if schedule.paused else "in force"
        print(f"{schedule.name}, version {schedule.version}, {state}: {schedule.definition.recipe_name}")
        print(f"for {whom(schedule)}; {when(schedule)}; next {_next(schedule)}")
        print(f"limits: {'; '.join(limits_in_words(schedule.definition.limits))}")
        for override in schedule.definition.overrides:
            print(f"--set {override}")
        print_runs(runs)

    return Reply(document, text)


def run(arguments: argparse.Namespace) -> Reply:
    """Run one schedule now, or what is due of all, in this process. The exit code is 4 where a run failed."""
    from flows.retraining import deployments

    settings = home()
    rows: list[tuple[str, str, str, str]] = []
    with open_registry() as registry:
        deployments.catch_up(registry)
        if arguments.name is not None:
            schedule = registry.schedules.get(arguments.name)
            asked = registry.occasions.ask(schedule.name, "manual", "asked for by hand")
            rows += _worked(registry, settings, schedule)
            # a worker's look may have been faster, and what it decided or ran be over already
            for one in reversed(registry.scheduled_runs.history(schedule.name, limit=MOST_RUNS)):
                if one.occasion == asked.id and one.over and one.target not in {row[1] for row in rows}:
                    rows.append((schedule.name, one.target, one.state, plain(one.note)))
        for schedule in registry.schedules.ls() if arguments.name is None else ():
            try:
                rows += _worked(registry, settings, schedule)
            except (FlowError, RegistryError) as error:  # what is wrong with one is no matter of the others
                rows.append((schedule.name, "–", "failed", plain(str(error))))
        mine = [s.name for s in registry.schedules.ls() if arguments.name in (None, s.name)]
        still = sum(len(registry.scheduled_runs.open(name)) for name in mine)
    document = [dict(zip(("schedule", "target", "state", "note"), row, strict=True)) for row in rows]

    def show() -> None:
        if not rows:
            later = f"nothing begins here now; runs that wait, or are done elsewhere: {still}"
            print(later if still else "nothing is due")
            return
        print_table("", ("schedule", "target", "came to", "why"), rows)

    return Reply(document, show, 4 if any(state == "failed" for _, _, state, _ in rows) else 0)


def _worked(registry: Registry, settings: Settings, schedule: Schedule) -> list[tuple[str, str, str, str]]:
    """Look at a schedule and do what waits: schedule, target, state and reason of each run that is over."""
    from flows.retraining.lane import Lane
    from flows.retraining.look import look
    from flows.retraining.night import tell_if_over

    decided = look(registry, schedule)
    ended = Lane(registry, settings, schedule.name, report=report).work()
    tell_if_over(registry, schedule.definition.zone, datetime.now(UTC))
    rows = [
        (schedule.name, run.target, run.state, plain(run.note)) for run in decided if run.state != "waiting"
    ]
    return rows + [(schedule.name, begun.target, end.state, plain(end.note)) for begun, end in ended]


def report(line: str) -> None:
    """A line about what goes on, for people."""
    remark(f"tuneline: {plain(line)}")


def pause(arguments: argparse.Namespace) -> Reply:
    """Its triggers do nothing from now on."""
    return _pause(arguments, True)


def resume(arguments: argparse.Namespace) -> Reply:
    """Its triggers count again; what was missed meanwhile is made up for once."""
    return _pause(arguments, False)


def _pause(arguments: argparse.Namespace, paused: bool) -> Reply:
    with open_registry() as registry:
        changed = registry.schedules.pause(arguments.name, paused, who(arguments))
        tell_prefect(registry)
    state = "paused" if paused else "in force"
    line = f"schedule {arguments.name} is {state}{'' if changed else ', as before'}"
    return Reply({"schedule": arguments.name, "paused": paused, "changed": changed}, lambda: print(line))


def rm(arguments: argparse.Namespace) -> Reply:
    """No more of this one."""
    with open_registry() as registry:
        registry.schedules.remove(arguments.name, who(arguments))
        tell_prefect(registry)
    line = f"schedule {arguments.name} is removed; `tuneline schedule audit` keeps what it was"
    return Reply({"schedule": arguments.name, "removed": True}, lambda: print(line))


def sync(arguments: argparse.Namespace) -> Reply:
    """Prefect's deployments as the schedules are."""
    from flows.retraining import deployments

    address = deployments.server()
    if address is None:
        raise Usage("no Prefect server is named: set PREFECT_API_URL, for example http://127.0.0.1:4200/api")
    with open_registry() as registry:
        done = deployments.sync(registry.schedules.ls(), address, arguments.pool)
    lines = [f"{name}: Prefect deployment {deployments.FLOW}/{name}" for name in done["made"]]
    lines += [f"{name}: removed from Prefect" for name in done["removed"]]
    return Reply({"prefect": address, **done}, lambda: print("\n".join(lines or ["there is no schedule"])))


def tell_prefect(registry: Registry) -> None:
    """After a change, where a server is named: that it is away now is no reason to lose the change."""
    from flows.retraining import deployments

    address = deployments.server()
    if address is not None:
        try:
            deployments.sync(registry.schedules.ls(), address)
        except deployments.PrefectUnreachable as error:
            report(f"the schedule is changed, and Prefect does not know it yet: {error}")


def audit(arguments: argparse.Namespace) -> Reply:
    """Every change."""
    with open_registry() as registry:
        events = registry.schedules.audit(arguments.name)
    rows = [
        (f"{event.at:%Y-%m-%d %H:%M:%S}", event.schedule, str(event.number), event.action, plain(event.who))
        for event in events
    ]
    columns = ("at (UTC)", "schedule", "version", "change", "who")
    return Reply([event.model_dump(mode="json") for event in events], lambda: print_table("", columns, rows))


def print_runs(runs: Sequence[ScheduledRun]) -> None:
    """A table of runs of schedules."""
    rows = [
        (
            f"{run.due:%Y-%m-%d %H:%M}",
            run.trigger,
            run.target,
            run.state,
            "–" if run.seconds is None else duration(run.seconds),
            plain(run.note),
        )
        for run in runs
    ]
    if rows:
        print_table("", ("due (UTC)", "for", "target", "came to", "computed", "why"), rows)
    else:
        print("It has not run yet.")


def _document(schedule: Schedule) -> JsonObject:
    due = next_of(schedule)
    return {**schedule.model_dump(mode="json"), "next": None if due is None else due.isoformat()}


def next_of(schedule: Schedule) -> datetime | None:
    """When its next cron trigger is due; None while it is paused."""
    from flows.retraining.look import coming

    return None if schedule.paused else min(coming(schedule, datetime.now(UTC)), default=None)


def _next(schedule: Schedule) -> str:
    due = next_of(schedule)
    return "–" if due is None else f"{due:%Y-%m-%d %H:%M}"
