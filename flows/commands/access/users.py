"""`tuneline users`: what each does."""

from __future__ import annotations

import argparse
from datetime import datetime

from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.commands.serving.tenants import who
from flows.formatting import plain

_ONCE = "This token is not shown again: only a digest of it is kept."


def add(arguments: argparse.Namespace) -> Reply:
    """A new user."""
    with open_registry(make=True) as registry:
        user, token = registry.users.add(arguments.name, arguments.role, who(arguments))
    document = {"user": user.model_dump(mode="json"), "token": token}
    lines = [f"{user.name} ({user.role}) signs in with the token", token, _ONCE]
    return Reply(document, lambda: print("\n".join(lines)))


def ls(arguments: argparse.Namespace) -> Reply:
    """All users."""
    with open_registry() as registry:
        users = registry.users.ls()
    rows = [
        (
            user.name,
            user.role,
            "OpenID Connect" if user.identity else "token",
            _day(user.created),
            f"revoked {_day(user.revoked)}" if user.revoked else "active",
        )
        for user in users
    ]

    def text() -> None:
        if rows:
            print_table("", ("user", "role", "signs in with", "since", "state"), rows)
        else:
            print("no users: one person uses `tuneline ui` on this machine, by the link that it prints")

    return Reply([user.model_dump(mode="json") for user in users], text)


def role(arguments: argparse.Namespace) -> Reply:
    """Another role for a user."""
    with open_registry() as registry:
        user = registry.users.change_role(arguments.name, arguments.role, who(arguments))
    return Reply(user.model_dump(mode="json"), lambda: print(f"{user.name}: {user.role} from now on"))


def revoke(arguments: argparse.Namespace) -> Reply:
    """End a user's tokens and sign-ins."""
    with open_registry() as registry:
        ended = registry.users.revoke(arguments.name, who(arguments))
    line = f"{arguments.name}: tokens and sign-ins ended" if ended else f"{arguments.name} was revoked before"
    return Reply({"user": arguments.name, "revoked": ended}, lambda: print(line))


def audit(arguments: argparse.Namespace) -> Reply:
    """The log, once it was checked."""
    with open_registry() as registry:
        events = registry.users.audit()

    def text() -> None:
        for event in events:
            tokens = len(event.state["tokens"])
            role = f"{event.state['role']}, {tokens} token{'' if tokens == 1 else 's'}"
            print(f"{_day(event.at)}  {event.action} {event.subject}, {plain(event.who)}: {role}")
        print(f"{len(events)} events, all digests match")

    return Reply([event.model_dump(mode="json") for event in events], text)


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
