"""The arguments of `tuneline users` and `webhooks`; loads nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

ROLES = ("viewer", "operator", "admin")
EVENTS = ("promotion", "rollback", "gate", "failed-run", "drift", "alert", "night")
Add = Callable[..., argparse.ArgumentParser]


def add_access_commands(add: Add, group: Callable[..., Any]) -> None:
    """`users add|ls|role|revoke|audit` and `webhooks add|ls|rm|test|deliver|deliveries`."""
    _add_users(add, group("users", "who may use the web interface and the API, in which role"))
    _add_webhooks(add, group("webhooks", "addresses that are notified of promotions, verdicts and trouble"))


def _add_users(add: Add, actions: Any) -> None:
    def command(name: str, text: str) -> argparse.ArgumentParser:
        return add(name, f"access.users:{name}", text, actions)

    new = command("add", "a new user, or a revoked one again; prints the token, this once")
    new.add_argument("name", help="letters, digits, '.', '_', '@', '+', '-'")
    text = "viewer looks, operator moves channels, admin also tenants, users, webhooks (default viewer)"
    new.add_argument("--role", choices=ROLES, default="viewer", help=text)
    command("ls", "list users")
    other = command("role", "give a user another role; sessions and token go on")
    other.add_argument("name")
    other.add_argument("role", choices=ROLES)
    end = command("revoke", "end a user's tokens and sign-ins at once")
    end.add_argument("name")
    command("audit", "every change of users, with a check that none was tampered with")
    for mutating in (new, other, end):
        _who(mutating)


def _add_webhooks(add: Add, actions: Any) -> None:
    def command(name: str, text: str) -> argparse.ArgumentParser:
        return add(name, f"access.webhooks:{name}", text, actions)

    new = command("add", "a new webhook; prints the secret that its deliveries are signed with, this once")
    new.add_argument(
        "url", help="https://HOST/PATH, or prefect:TYPE/NAME for a block of Prefect's (e-mail: …?to=ADDRESS)"
    )
    text = "events to send (default: all)"
    new.add_argument("--events", nargs="+", choices=EVENTS, default=EVENTS, metavar="EVENT", help=text)
    new.add_argument(
        "--allow-private", action="store_true", help="it may be on this machine or in its network"
    )
    command("ls", "list webhooks")
    removed = command("rm", "send a webhook no more events")
    tried = command("test", "send a webhook the event `test`, now, and say what it answered")
    log = command("deliveries", "what came of each delivery, newest first")
    log.add_argument("id", nargs="?", help="of one webhook (default: all)")
    log.add_argument("--limit", type=int, default=50, help="rows (default 50)")
    for parser in (removed, tried):
        parser.add_argument("id", help="as `tuneline webhooks ls` shows it")
    for mutating in (new, removed, tried):
        _who(mutating)
    sender = command("deliver", "deliver what waits, until a signal ends it; `tuneline ui` does so by itself")
    sender.add_argument("--once", action="store_true", help="deliver what is due now, and end")


def _who(command: argparse.ArgumentParser) -> None:
    command.add_argument("--who", help="who answers for it (default: your login name); kept in the log")
