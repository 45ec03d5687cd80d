"""The arguments of `tuneline schedule`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Add = Callable[..., argparse.ArgumentParser]


def add_schedule_commands(add: Add, group: Callable[..., Any]) -> None:
    """`schedule add|ls|show|run|pause|resume|rm|sync|night|audit`."""
    actions = group("schedule", "what is retrained by itself: when, for whom, within which limits")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return add(name, f"pipeline.schedule:{name.replace('-', '_')}", text, actions)

    new = command("add", "a new schedule, or with --replace another version of one")
    new.add_argument("name", help="a-z, 0-9, '.', '_', '-'")
    new.add_argument("recipe", help="a YAML file, or the name of a shipped recipe; kept as it is now")
    text = "override a key; the value may hold {tenant}, {channel}, {team}, {name}; repeatable"
    new.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help=text)
    new.add_argument("--replace", action="store_true", help="make another version of a schedule that exists")
    _for_whom(new)
    _triggers(new)
    add_limits(new)
    command("ls", "list schedules")
    shown = command("show", "one schedule, and its latest runs")
    started = command("run", "run a schedule now, here; without a name, whatever is due of all of them")
    started.add_argument("name", nargs="?", help="the schedule (default: all, and only what is due)")
    changes = [
        command("pause", "let its triggers do nothing, until resume"),
        command("resume", "let a paused schedule go on"),
        command("rm", "take a schedule out of use; its log and its runs stay"),
    ]
    synced = command("sync", "make Prefect's deployments what the schedules say; changes do so by themselves")
    text = "Prefect's work pool for all of them (default: as they are; tuneline for new ones)"
    synced.add_argument("--pool", help=text)
    _night(add, actions)
    audit = command("audit", "every change of schedules, with a check that none was tampered with")
    audit.add_argument("name", nargs="?", help="of one schedule (default: all)")
    for parser in (shown, *changes):
        parser.add_argument("name", help="as `tuneline schedule ls` shows it")
    shown.add_argument("--limit", type=int, default=20, help="runs (default 20)")
    for mutating in (new, *changes):
        mutating.add_argument("--who", help="who answers for it (default: your login name); kept in the log")


def _night(add: Add, actions: Any) -> None:
    text = "one night on one page: what ran, was promoted, was refused, what it cost"
    night = add("night", "pipeline.nights:night", text, actions)
    night.add_argument("--date", metavar="YYYY-MM-DD", help="of its evening (default: the night that is now)")
    night.add_argument("--zone", default="UTC", help="of schedules in this time zone (default UTC)")
    night.add_argument("--out", type=Path, metavar="FILE", help="write it there as an HTML page, too")


def _for_whom(new: argparse.ArgumentParser) -> None:
    text = "a channel to retrain; repeatable (default: the recipe's own)"
    new.add_argument("--channel", action="append", default=[], metavar="TEAM/NAME", help=text)
    text = "the channels of the tenants with such names, for example 'eu-*'; each run is a tenant's own"
    new.add_argument("--tenants", metavar="PATTERN", help=text)


def _triggers(new: argparse.ArgumentParser) -> None:
    text = "when: minute, hour, day of the month, month, day of the week; repeatable"
    new.add_argument("--cron", action="append", default=[], metavar="'0 3 * * *'", help=text)
    new.add_argument("--zone", default="UTC", help="time zone of --cron and --window (default UTC)")
    text = "when the source has so many rows more than at the last run, or so many per cent: 500, 10%%"
    new.add_argument("--rows", metavar="N|P%", help=text)
    new.add_argument("--base", action="store_true", help="when the base is another commit, or other files")
    text = "when `POST /v1/schedules/run` brings the token, which is printed, this once"
    new.add_argument("--webhook", action="store_true", help=text)
    new.add_argument("--drift", action="store_true", help="when a measure of drift asks for it")


def add_limits(new: argparse.ArgumentParser) -> None:
    """How much at once, when, and at what price."""
    text = "runs at one time, on all machines together (default 1)"
    new.add_argument("--at-once", type=int, default=1, metavar="N", help=text)
    text = "more than one run on a GPU, or on a machine without one (default: one for each)"
    new.add_argument("--share-devices", action="store_true", help=text)
    text = "runs begin in these hours only, for example 22:00-06:00"
    new.add_argument("--window", metavar="HH:MM-HH:MM", help=text)
    text = "hours of computing a night, from noon to noon; then nothing more begins"
    new.add_argument("--night-hours", type=float, metavar="H", help=text)
    new.add_argument("--night-cost", type=float, metavar="MONEY", help="the same, by TUNELINE_RATES")
    text = "how long a target waits after a failure; twice as long after each further one (default 60)"
    new.add_argument("--back-off", type=int, default=60, metavar="MINUTES", help=text)
