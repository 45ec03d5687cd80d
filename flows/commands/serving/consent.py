"""`tuneline tenants consent`: what a tenant agreed to have kept, and the end of that."""

from __future__ import annotations

import argparse

from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.commands.serving.tenants import who
from flows.formatting import plain
from registry.tenancy.consents import Consent


def consent(arguments: argparse.Namespace) -> Reply:
    """Record or withdraw a consent; without `--feed` and `--withdraw` say what is in force."""
    name = arguments.name
    with open_registry() as registry:
        registry.tenants.get(name)
        if arguments.withdraw:
            registry.consents.withdraw(name, who(arguments))
        elif arguments.feed is not None:
            terms = (arguments.feed, arguments.sample, arguments.days, arguments.redact)
            registry.consents.give(name, *terms, who(arguments))
        standing = next((one for one in registry.consents.ls() if one.tenant == name), None)
    document = {"tenant": name, "consent": standing and standing.model_dump(mode="json")}
    return Reply(document, lambda: print(_words(name, standing)))


def _words(name: str, standing: Consent | None) -> str:
    if standing is None:
        return f"{name}: no consent in force; nothing is kept of its requests"
    redacted = f"without {', '.join(standing.redact)}" if standing.redact else "with nothing taken out"
    lines = [
        f"{name}: since {standing.at:%Y-%m-%d %H:%M} UTC, recorded by {plain(standing.who)}",
        f"  receipts and feedback of all answers, for {standing.days:,} days",
        f"  words of {standing.sample:.0%} of the requests, {redacted}"
        if standing.sample
        else "  no words of any request",
        f"  approved and corrected answers go to feed {standing.feed}",
    ]
    return "\n".join(lines)
