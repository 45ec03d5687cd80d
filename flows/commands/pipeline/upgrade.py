"""`tuneline upgrade-base`: what it does."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.commands.home import home, open_registry
from flows.commands.pipeline.schedule import limits_of, report, tell_prefect
from flows.commands.reply import Reply, print_table
from flows.commands.serving.tenants import who
from flows.errors import Usage
from flows.formatting import duration, plain
from flows.metrics.rates import read_rates
from flows.retraining.times import check_zone
from flows.settings import Settings
from flows.upgrades import fleet
from flows.upgrades.forms import form_of
from flows.upgrades.hosts import Host, hosts, on_their_own
from flows.upgrades.plan import Planner, UpgradePlan, chosen
from flows.upgrades.undo import undo
from registry import Registry
from registry.schedules.schedules import checked
from stages.config.base import BaseConfig


def upgrade(arguments: argparse.Namespace) -> Reply:
    """Plan and, if asked, run; or what became of an earlier one. Raises `Usage`, and as the stages do."""
    selects = [*arguments.channels, *filter(None, (arguments.tenants, arguments.to, arguments.quant))]
    name = arguments.resume or arguments.undo or arguments.show
    if name is not None and (selects or arguments.run):
        raise Usage(
            "--resume, --undo and --show take an upgrade's ID, and no channels, --to, --quant or --run"
        )
    if name is None and not selects:
        return _listed()
    if arguments.undo is not None:
        return _undone(arguments.undo, who(arguments))
    settings = home()
    with open_registry() as registry:
        if name is None:
            plan = _planned(arguments, registry, settings)
            if not (arguments.run and plan.begun):
                return _shown(plan, arguments.run)
            name = _begun(arguments, registry, plan)
        elif arguments.resume is not None:
            fleet.definition_of(registry, name)
        if arguments.show is None:
            fleet.go_on(registry, settings, name, who(arguments), report)
            tell_prefect(registry)
        return _became(registry, name)


def _planned(arguments: argparse.Namespace, registry: Registry, settings: Settings) -> UpgradePlan:
    if arguments.to is None and arguments.quant is None:
        raise Usage("give --to BASE, --quant FORM, or both")
    check_zone(arguments.zone)
    channels = chosen(registry, arguments.channels, arguments.tenants)
    base = None if arguments.to is None else _base(arguments.to)
    form = None if arguments.quant is None else form_of(arguments.quant)
    rates = None if settings.rates is None else read_rates(settings.rates)
    planner = Planner(registry, settings, base, form, arguments.quant is not None, fleet.busy(registry))
    return planner.plan(channels, rates)


def _base(source: str) -> BaseConfig:
    scheme, _, place = source.partition(":")
    if scheme == "path":
        source = f"path:{Path(place).expanduser().absolute()}"
    try:
        return BaseConfig(source=source)
    except ValidationError as error:
        raise Usage(f"--to {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _begun(arguments: argparse.Namespace, registry: Registry, plan: UpgradePlan) -> str:
    """Make the bases that engines have to hold, and write the upgrade down."""
    limits = checked(recipe_name="", recipe={}, limits=limits_of(arguments)).limits
    if (alone := on_their_own(registry, plan.begun)) and not arguments.unserved:
        raise Usage(
            f"{', '.join(alone)}: an engine answers over a base now, and this makes a model with an engine "
            "of its own, which cannot be started before the channel has moved: until then tenants would be "
            "refused. "
            "Nothing was begun: give --unserved when that may be, and afterwards add an engine with "
            f"`model: {alone[0]}` to serve.yaml and start the gateway again"
        )
    needed = hosts(registry, plan.begun)
    for host in needed:
        report(f"{', '.join(host.channels)}: served over {host.name}")
    if (missing := [host for host in needed if host.missing]) and not arguments.unserved:
        raise Usage(_not_held(missing))
    name = fleet.begin(registry, plan, limits, arguments.zone, who(arguments))
    report(f"{name} is begun; should it be stopped, `tuneline upgrade-base --resume {name}` goes on with it")
    tell_prefect(registry)
    return name


def _not_held(missing: list[Host]) -> str:
    models = " and ".join(host.name for host in missing)
    return (
        f"no running engine holds {models}, and one does hold what is served now: tenants of a channel that "
        f"moved would be refused. Nothing was begun: add an engine with `model: {missing[0].name}` to "
        "serve.yaml beside the one that is there, start the gateway again, and give this command again; or "
        "--unserved, if it is served elsewhere"
    )


def _shown(plan: UpgradePlan, asked: bool) -> Reply:
    rows = [
        (step.channel, step.does, plain(step.why), _time(step.seconds), _money(plan, step.seconds))
        for step in plan.steps
    ]
    document = {
        "to": plan.to,
        "steps": [{**asdict(step), "recipe": None, "cost": plan.cost(step.seconds)} for step in plan.steps],
        "shared_seconds": plan.shared,
        "seconds": plan.seconds,
        "cost": plan.cost(plan.seconds),
    }

    def show() -> None:
        print_table(f"to {plan.to}", ("channel", "does", "why", "computes", "costs"), rows)
        if plan.begun:
            print(
                f"Together {_time(plan.seconds)} of computing, {_money(plan, plan.seconds)}; of these "
                f"{_time(plan.shared)} for what all share. Nothing was begun: --run begins it."
            )
        else:
            print("There is nothing to do.")

    refused = any(step.does == "refused" for step in plan.steps)
    return Reply(document, show, 3 if refused and not plan.begun else 0)


def _became(registry: Registry, name: str) -> Reply:
    """The table of an upgrade. The code is 4 where a run failed, 1 where a gate refused one."""
    channels = fleet.upgraded(registry, name)
    rows = [
        (
            member.run.channel,
            member.does,
            member.state,
            plain(member.note),
            _time(member.run.seconds),
            "–" if member.run.cost is None else _amount(member.run.cost),
        )
        for member in channels
    ]
    document: dict[str, Any] = {
        "upgrade": name,
        "channels": [
            {
                "channel": member.run.channel,
                "does": member.does,
                "state": member.state,
                "note": member.note,
                "artifact_id": member.run.artifact_id,
                "decision_id": member.run.decision_id,
                "seconds": member.run.seconds,
                "cost": member.run.cost,
            }
            for member in channels
        ],
    }
    states, behind = {member.state for member in channels}, fleet.left_behind(registry, name)
    document["schedules_to_change"] = behind

    def show() -> None:
        print_table(name, ("channel", "did", "came to", "why", "computed", "cost"), rows)
        for schedule, meant in behind.items():
            print(f"Schedule {schedule} still has the recipe from before for {', '.join(meant)}: change it.")
        if "promoted" in states:
            print(f"Back with all that moved: tuneline upgrade-base --undo {name}")

    return Reply(document, show, 4 if "failed" in states else 1 if "refused" in states else 0)


def _undone(name: str, answers: str) -> Reply:
    with open_registry() as registry:
        channels = undo(registry, name, answers)
        tell_prefect(registry)
    rows = [(channel.channel, channel.came, plain(channel.note)) for channel in channels]
    document = {"upgrade": name, "channels": [asdict(channel) for channel in channels]}
    refused = any(channel.came == "refused" for channel in channels)
    return Reply(document, lambda: print_table(name, ("channel", "came", "why"), rows), 3 if refused else 0)


def _listed() -> Reply:
    rows: list[tuple[str, ...]] = []
    document: list[dict[str, Any]] = []
    with open_registry() as registry:
        standing = {schedule.name for schedule in registry.schedules.ls()}
        for name in fleet.names(registry):
            states = Counter(member.state for member in fleet.upgraded(registry, name))
            to = fleet.definition_of(registry, name).recipe_name.removeprefix("to ")
            over = name not in standing
            document.append({"upgrade": name, "to": to, "over": over, "states": states})
            counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            rows.append((name, to, "over" if over else "goes on", counts))

    def show() -> None:
        if rows:
            print_table("", ("upgrade", "to", "is", "channels"), rows)
        else:
            print("no upgrade yet; `tuneline upgrade-base CHANNEL --to BASE` plans one")

    return Reply(document, show)


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _money(plan: UpgradePlan, seconds: float | None) -> str:
    cost = plan.cost(seconds)
    return "no price" if cost is None or plan.rates is None else f"{_amount(cost)} {plan.rates.currency}"


def _amount(cost: float) -> str:
    return f"{cost:.2f}" if cost >= 1 else f"{cost:.4f}"
