"""`tuneline tenants`: what each does."""

from __future__ import annotations

import argparse
import getpass
from datetime import UTC, datetime
from typing import Any

from flows.commands.arguments.tenants import LIMITS
from flows.commands.home import open_registry
from flows.commands.reply import Reply, print_table
from flows.formatting import plain
from registry.tenancy.tenants import Tenant, TenantKey, TenantLimits

_ONCE = "This key is not shown again: only a digest of it is kept."


def add(arguments: argparse.Namespace) -> Reply:
    """A new tenant."""
    with open_registry(make=True) as registry:
        tenant, key, secret = registry.tenants.add(
            arguments.name, arguments.channel, who(arguments), _limits(arguments), arguments.pinned
        )
    document = {"tenant": tenant.model_dump(mode="json"), **_new_key(key, secret)}
    lines = [f"{tenant.name} uses {tenant.channel} with the key", secret, _ONCE]
    return Reply(document, lambda: print("\n".join(lines)))


def ls(arguments: argparse.Namespace) -> Reply:
    """All tenants."""
    with open_registry() as registry:
        state = registry.serving_state()
    live: dict[str, int] = {}
    for key in state.keys.values():
        live[key.tenant] = live.get(key.tenant, 0) + 1
    tenants = list(state.tenants.values())
    document = [
        {**tenant.model_dump(mode="json"), "live_keys": live.get(tenant.name, 0)} for tenant in tenants
    ]
    rows = [
        (
            tenant.name,
            tenant.channel,
            *(_number(getattr(tenant.limits, field)) for field in LIMITS),
            "yes" if tenant.pinned else "–",
            str(live.get(tenant.name, 0)),
        )
        for tenant in tenants
    ]
    columns = ("tenant", "channel", "requests/min", "at once", "tokens/day", "pinned", "live keys")
    return Reply(document, lambda: print_table("", columns, rows))


def show(arguments: argparse.Namespace) -> Reply:
    """One tenant."""
    at = datetime.now(UTC)
    with open_registry() as registry:
        tenant = registry.tenants.get(arguments.name)
        keys = registry.tenants.keys(tenant.name)
        used, reserved = registry.budgets.spent(tenant.name, f"{at:%Y-%m-%d}")
    document = {
        **tenant.model_dump(mode="json"),
        "keys": [{**key.model_dump(mode="json"), "live": key.live(at)} for key in keys],
        "today": {"day": f"{at:%Y-%m-%d}", "tokens_used": used, "tokens_reserved": reserved},
    }

    def text() -> None:
        print(f"{tenant.name} → {tenant.channel}{', pinned' if tenant.pinned else ''}")
        print("\n".join(_limit_lines(tenant)))
        limit = "" if tenant.limits.tokens_per_day is None else f" of {tenant.limits.tokens_per_day:,}"
        print(f"today (UTC): {used:,} tokens used{limit}, {reserved:,} reserved by gateways")
        rows = [(key.id, f"{key.created:%Y-%m-%d %H:%M}", _key_state(key, at)) for key in keys]
        print_table("", ("key", "created", "state"), rows)

    return Reply(document, text)


def change(arguments: argparse.Namespace) -> Reply:
    """Change what was named."""
    with open_registry() as registry:
        tenant = registry.tenants.change(
            arguments.name, who(arguments), arguments.channel, _limits(arguments), arguments.pinned
        )
    lines = [f"{tenant.name} → {tenant.channel}{', pinned' if tenant.pinned else ''}", *_limit_lines(tenant)]
    return Reply(tenant.model_dump(mode="json"), lambda: print("\n".join(lines)))


def rotate(arguments: argparse.Namespace) -> Reply:
    """A new key."""
    with open_registry() as registry:
        key, secret = registry.tenants.rotate(arguments.name, who(arguments), arguments.overlap)
        at = datetime.now(UTC)
        old = [
            api_key
            for api_key in registry.tenants.keys(key.tenant)
            if api_key.live(at) and api_key.id != key.id
        ]
    lines = [f"the new key of {key.tenant} is", secret, _ONCE]
    lines += [f"key {api_key.id} works until {api_key.expires:%Y-%m-%d %H:%M:%S} UTC" for api_key in old]
    document = {**_new_key(key, secret), "old_keys": [api_key.model_dump(mode="json") for api_key in old]}
    return Reply(document, lambda: print("\n".join(lines)))


def revoke(arguments: argparse.Namespace) -> Reply:
    """End keys."""
    with open_registry() as registry:
        ended = registry.tenants.revoke(arguments.name, who(arguments), arguments.key)
        at = datetime.now(UTC)
        left = [api_key.id for api_key in registry.tenants.keys(arguments.name) if api_key.live(at)]
    document = {
        "tenant": arguments.name,
        "revoked": [api_key.model_dump(mode="json") for api_key in ended],
        "live_keys": left,
    }
    lines = [f"key {api_key.id} revoked" for api_key in ended] or ["nothing to revoke: it was revoked before"]
    if not left:
        lines.append(
            f"{arguments.name} has no live key; `tuneline tenants rotate {arguments.name}` makes one"
        )
    return Reply(document, lambda: print("\n".join(lines)))


def audit(arguments: argparse.Namespace) -> Reply:
    """The log, once it was checked."""
    with open_registry() as registry:
        events = registry.tenants.audit(arguments.name)

    def text() -> None:
        for event in events:
            limits = [f"{name.replace('_', ' ')} {value:,}" for name, value in event.limits.items() if value]
            parts = [f"→ {event.channel}", *limits, *(["pinned"] if event.pinned else [])]
            parts += [_ending(key, end) for key, end in event.keys.items()] or ["no live key"]
            who_said = plain(event.who)
            print(f"{event.at:%Y-%m-%d %H:%M}  {event.action} {event.tenant}, {who_said}: {', '.join(parts)}")
        print(f"{len(events)} events, all digests match")

    return Reply([event.model_dump(mode="json") for event in events], text)


def who(arguments: argparse.Namespace) -> str:
    """Who answers for the command."""
    return getpass.getuser() if arguments.who is None else str(arguments.who)


def _limits(arguments: argparse.Namespace) -> TenantLimits:
    limits: dict[str, Any] = {field: vars(arguments)[field] for field in LIMITS if field in arguments}
    return TenantLimits(**limits)


def _limit_lines(tenant: Tenant) -> list[str]:
    return [f"{text}: {_number(getattr(tenant.limits, field))}" for field, text in LIMITS.items()]


def _number(value: int | None) -> str:
    return "no limit" if value is None else f"{value:,}"


def _new_key(record: TenantKey, secret: str) -> dict[str, object]:
    """`key`: what goes into the Authorization header; `record`: what is kept of it."""
    return {"key": secret, "record": record.model_dump(mode="json")}


def _key_state(key: TenantKey, at: datetime) -> str:
    if key.revoked is not None:
        return f"revoked {key.revoked:%Y-%m-%d %H:%M}"
    if key.expires is None:
        return "live"
    return f"{'live until' if key.live(at) else 'expired'} {key.expires:%Y-%m-%d %H:%M}"


def _ending(key: str, end: datetime | None) -> str:
    return f"key {key}" if end is None else f"key {key} until {end:%Y-%m-%d %H:%M}"
