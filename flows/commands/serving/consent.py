"""`tuneline tenants consent`: what a tenant agreed to have kept, and the end of that."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flows.commands.arguments.tenants import REDACTION
from flows.commands.home import open_registry
from flows.commands.reply import Reply
from flows.commands.serving.tenants import who
from flows.errors import Usage
from flows.formatting import plain
from registry.tenancy.consents import Consent

_DAYS = 30


def consent(arguments: argparse.Namespace) -> Reply:
    """Record or withdraw a consent; without `--feed` and `--withdraw` say what is in force.

    Raises Usage for half of a consent, Corrupt where the log of the tenant's consents was changed.
    """
    name, terms = arguments.name, _terms(arguments)
    with open_registry() as registry:
        registry.tenants.get(name)
        if arguments.withdraw:
            registry.consents.withdraw(name, who(arguments))
        elif arguments.feed is not None:
            registry.consents.give(name, arguments.feed, *terms, who(arguments))
        changes = registry.consents.audit(name)
        standing = next(
            (consent_row for consent_row in registry.consents.ls() if consent_row.tenant == name), None
        )
    document: dict[str, object] = {"tenant": name, "consent": standing and standing.model_dump(mode="json")}
    document["changes"] = [change.model_dump(mode="json") for change in changes]
    return Reply(document, lambda: print(_words(name, standing)))


def _terms(arguments: argparse.Namespace) -> tuple[float, int, Sequence[str]]:
    """Sample, days and rules; nothing stays as it was recorded before."""
    options = (arguments.sample, arguments.days, arguments.redact)
    named = any(value is not None for value in options)
    if arguments.withdraw and (named or arguments.feed is not None):
        raise Usage("--withdraw ends the consent as it is; leave the other options out")
    if named and arguments.feed is None:
        raise Usage("--sample, --days and --redact are parts of a consent that is recorded whole; add --feed")
    sample, days, rules = options
    return sample or 0.0, _DAYS if days is None else days, REDACTION if rules is None else rules


def _words(name: str, standing: Consent | None) -> str:
    if standing is None:
        return f"{name}: no consent in force; nothing is kept of its requests"
    redacted = f"without {', '.join(standing.redact)}" if standing.redact else "with nothing taken out"
    lines = [
        f"{name}: since {standing.at:%Y-%m-%d %H:%M} UTC, recorded by {plain(standing.who)}",
        f"  receipts and feedback of all answers, for {standing.days:,} days",
        f"  words of {100 * standing.sample:.4g}% of the requests, {redacted}"
        if standing.sample
        else "  no words of any request",
        f"  approved and corrected answers go to feed {standing.feed}",
    ]
    return "\n".join(lines)
