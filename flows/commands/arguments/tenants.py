"""The arguments of `tuneline tenants`, `channels rollout` and `channels outcomes`; loads nothing else."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

LIMITS = {
    "requests_per_minute": "requests per minute",
    "concurrency": "requests that are being answered at once",
    "tokens_per_day": "tokens, prompt and completion, in a day (UTC)",
}
REDACTION = ("url", "email", "iban", "card", "ip", "phone", "number")
_CONSENT = "record what a tenant agreed to have kept of its requests, or say what is recorded"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
Add = Callable[..., argparse.ArgumentParser]


def span(words: str) -> timedelta:
    """`90s`, `30m`, `24h` or `7d`."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", words)
    if match is None:
        raise argparse.ArgumentTypeError(f"{words!r}: expected a time such as 90s, 30m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def limit(words: str) -> int | None:
    """A whole number, or `none`; which numbers make a limit, the registry knows."""
    if words == "none":
        return None
    if not re.fullmatch("-?[0-9]{1,18}", words):
        raise argparse.ArgumentTypeError(f"{words!r}: expected a whole number, or none")
    return int(words)


def add_tenant_commands(add: Add, verbs: Any) -> None:
    """`tenants add|ls|show|set|rotate|revoke|consent|audit`."""
    text = "who may use which channel, with which key, and how much"
    group = verbs.add_parser("tenants", help=text, description=text)
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    def command(name: str, text: str, call: str | None = None) -> argparse.ArgumentParser:
        return add(name, f"serving.tenants:{call or name}", text, actions)

    new = command("add", "a new tenant; prints its key, this once")
    _name(new)
    new.add_argument("channel", help="TEAM/NAME; need not exist yet")
    _limits(new)
    new.add_argument("--pinned", action="store_true", help="its adapter is never evicted")
    command("ls", "list tenants")
    _name(command("show", "one tenant: limits, keys without their secrets, today's tokens"))
    change = command("set", "change a tenant; what is not named stays", "change")
    _name(change)
    change.add_argument("--channel", help="TEAM/NAME")
    _limits(change)
    change.add_argument(
        "--pinned", action=argparse.BooleanOptionalAction, help="its adapter is never evicted"
    )
    rotate = command("rotate", "a new key, printed this once; the keys before it end after the overlap")
    _name(rotate)
    day, text = timedelta(hours=24), "how long the keys before it still work: 30m, 24h, 7d, 0s (default 24h)"
    rotate.add_argument("--overlap", type=span, default=day, metavar="TIME", help=text)
    revoke = command("revoke", "end a tenant's keys at once")
    _name(revoke)
    revoke.add_argument("--key", metavar="ID", help="only this one (default: all)")
    agreed = add("consent", "serving.consent:consent", _CONSENT, actions)
    _consent(agreed)
    for mutating in (new, change, rotate, revoke, agreed):
        _who(mutating)
    audit = command("audit", "every change of tenants and keys, with a check that none was tampered with")
    audit.add_argument("name", nargs="?", help="one tenant (default: all)")


def _consent(command: argparse.ArgumentParser) -> None:
    _name(command)
    command.add_argument("--feed", help="where rows go that come of it: approved and corrected answers")
    text = "share of the requests whose words are kept, 0 to 1 (default 0: feedback alone)"
    command.add_argument("--sample", type=float, metavar="SHARE", help=text)
    command.add_argument("--days", type=int, help="how long they are kept (default 30)")
    text = "what is taken out before anything is written (default: all); `--redact` alone: nothing"
    command.add_argument("--redact", nargs="*", choices=REDACTION, help=text)
    command.add_argument("--withdraw", action="store_true", help="from now on nothing is kept")


def add_channel_commands(add: Add, actions: Any) -> None:
    """`channels rollout`, `canary`, `judge` and `outcomes`."""
    text = "start, end or show a rollout: a candidate on a share of a channel's traffic"
    rollout = add("rollout", "gates.rollout:rollout", text, actions)
    rollout.add_argument("channel")
    rollout.add_argument("candidate", nargs="?", help="an id, its first 6 or more digits, or NAME@VERSION")
    rollout.add_argument(
        "--canary", type=float, default=0.0, metavar="PERCENT", help="of conversations, answered by it"
    )
    text = "of requests, sent to it too; its answers are dropped"
    rollout.add_argument("--shadow", type=float, default=0.0, metavar="PERCENT", help=text)
    rollout.add_argument("--stop", action="store_true", help="end the rollout in force")
    rollout.add_argument("--reason", help="kept in the history; needed to start and to stop")
    _who(rollout)
    text = "what a channel's canary has shown so far"
    add("canary", "gates.canary:canary", text, actions).add_argument("channel")
    text = "decide about canaries, of all channels, until Ctrl-C: promote, or stop for harm, or give up"
    judge = add("judge", "gates.canary:judge", text, actions)
    judge.add_argument("channel", nargs="?", help="only this one's")
    judge.add_argument("--once", action="store_true", help="look once, and end")
    text = "how the answers of a channel's artifacts fared, per artifact and arm"
    outcomes = add("outcomes", "gates.rollout:outcomes", text, actions)
    outcomes.add_argument("channel")
    outcomes.add_argument(
        "--since", type=span, metavar="TIME", help="of the last 30m, 24h, 7d (default: all)"
    )
    outcomes.add_argument(
        "--latency", type=Path, metavar="FILE", help="write the durations for `tuneline gate --latency`"
    )
    outcomes.add_argument("--artifact", metavar="REF", help="whose durations, for --latency")
    outcomes.add_argument("--prune", type=span, metavar="TIME", help="first forget what is older than that")


def _name(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="the tenant's: a-z, 0-9, '.', '_', '-'")


def _who(command: argparse.ArgumentParser) -> None:
    command.add_argument("--who", help="who answers for it (default: your login name); kept in the log")


def _limits(command: argparse.ArgumentParser) -> None:
    for field, text in LIMITS.items():
        option, text = f"--{field.replace('_', '-')}", f"{text}; or none"
        command.add_argument(option, type=limit, metavar="N", default=argparse.SUPPRESS, help=text)
