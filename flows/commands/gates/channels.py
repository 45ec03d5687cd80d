"""`tuneline channels`: what each does."""

from __future__ import annotations

import argparse
import getpass

import yaml

from flows.commands.gates.gate import is_said, load_policy
from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.errors import Usage
from flows.formatting import short
from registry.errors import NotFound


def channels(arguments: argparse.Namespace) -> Reply:
    """Every channel."""
    with open_registry() as registry:
        entries = registry.channels.ls()
        policies = {channel.name: registry.channels.policy(channel.name) for channel in entries}
    rows = [
        (c.name, short(c.artifact_id), str(c.generation), short(policy.digest) if policy else "–")
        for c in entries
        for policy in (policies[c.name],)
    ]
    document = [c.model_dump(mode="json") for c in entries]
    return Reply(document, lambda: print_table("", ("channel", "artifact", "generation", "policy"), rows))


def channel_show(arguments: argparse.Namespace) -> Reply:
    """A channel: where it points, its policies and its moves, in the order of time."""
    with open_registry() as registry:
        current = registry.channels.get(arguments.channel)
        history = registry.channels.history(arguments.channel)
        policies = registry.channels.policies(arguments.channel)
    if current is None and not policies:
        raise NotFound(f"no channel {arguments.channel!r}; `tuneline channels` lists them")
    document = {
        "name": arguments.channel,
        "current": current.model_dump(mode="json") if current else None,
        "policies": [policy.model_dump(mode="json") for policy in policies],
        "history": [event.model_dump(mode="json") for event in history],
    }

    def text() -> None:
        where = (
            f"{short(current.artifact_id)} (generation {current.generation})" if current else "nothing yet"
        )
        print(f"{arguments.channel} → {where}")
        changes = [
            (policy.at, f"policy {short(policy.digest)}, {policy.who}: {policy.reason}")
            for policy in policies
        ]
        for event in history:
            why = (
                f"decision {short(event.decision_id)}"
                if event.decision_id
                else f"{event.who}: {event.reason}"
            )
            changes.append((event.at, f"{event.action} to {short(event.artifact_id)}, {why}"))
        for at, change in sorted(changes, key=lambda change: change[0]):
            print(f"{at:%Y-%m-%d %H:%M}  {change}")

    return Reply(document, text)


def channel_policy(arguments: argparse.Namespace) -> Reply:
    """Print a channel's policy as YAML, or set it."""
    with open_registry(make=arguments.file is not None) as registry:
        if arguments.file is not None:
            if not is_said(arguments.reason):
                raise Usage("--set needs --reason WHY; it is kept with the policy")
            policy = load_policy(arguments.file, None)
            registry.channels.set_policy(
                arguments.channel, policy.model_dump(mode="json"), getpass.getuser(), arguments.reason
            )
        current = registry.channels.policy(arguments.channel)
    if current is None:
        raise NotFound(f"channel {arguments.channel} has no policy yet; set one with --set FILE --reason WHY")

    def text() -> None:
        print(
            f"# {current.channel}, policy {current.digest[:12]}, set {current.at:%Y-%m-%d} by {current.who}:"
        )
        print(f"# {' '.join(current.reason.split())}")
        print(yaml.safe_dump(current.policy, sort_keys=False, allow_unicode=True), end="")

    return Reply(current.model_dump(mode="json"), text)


def rollback(arguments: argparse.Namespace) -> Reply:
    """Move a channel back."""
    registry = open_registry()
    if registry.channels.get(arguments.channel) is None:
        raise NotFound(f"no channel {arguments.channel!r}; `tuneline channels` lists them")
    moved = registry.channels.rollback(arguments.channel, reason=arguments.reason, who=getpass.getuser())
    text = f"{moved.name} → {short(moved.artifact_id)} (generation {moved.generation})"
    return Reply(moved.model_dump(mode="json"), lambda: print(text))
