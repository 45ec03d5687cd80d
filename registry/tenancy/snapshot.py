"""What a gateway has to know, read at one moment, and a number that says whether it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from registry.channels import channels
from registry.channels.channels import Channel
from registry.db.serving_tables import serving_version
from registry.tenancy import consents, rollouts, tenants
from registry.tenancy.consents import Consent
from registry.tenancy.rollouts import Rollout
from registry.tenancy.tenants import Tenant, TenantKey


@dataclass(frozen=True)
class ServingState:
    """Who may ask of what, as of one moment; `version` is that of `Registry.serving_version`.

    `keys` maps the sha256 (hex) of a whole key to it; revoked ones are left out, expired ones say so.
    """

    version: int
    channels: Mapping[str, Channel]
    tenants: Mapping[str, Tenant]
    keys: Mapping[str, TenantKey]
    rollouts: Mapping[str, Rollout]
    consents: Mapping[str, Consent]
    """By tenant; one that is not here agreed to nothing."""


def read(connection: Connection) -> ServingState:
    """The state that this transaction sees."""
    return ServingState(
        version=version(connection),
        channels={channel.name: channel for channel in channels.every(connection)},
        tenants=tenants.every(connection),
        keys=tenants.unrevoked_keys(connection),
        rollouts=rollouts.in_force(connection),
        consents=consents.in_force(connection),
    )


def version(connection: Connection) -> int:
    """A number that grows whenever a channel, tenant, key, rollout or consent changes; but not with time."""
    return int(connection.execute(select(serving_version.c.version)).scalar_one())
