"""Tenants: who may ask, with which keys, of which channel, and how much. Every change is in a chained log.

A key is `tl-<id>-<secret>`, with 32 random bytes in the secret. Only the sha256 of the whole key is stored. A
slow hash, made for passwords, would add nothing: it makes guesses dearer, and among 2^256 equally likely
secrets there is nothing to guess. It would cost every request tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from pydantic import Field, field_validator
from sqlalchemy import Connection, Row, insert, select, update

from registry.artifacts import Record
from registry.channels.channels import check_name, check_text
from registry.db.engine import Database, now
from registry.db.serving_tables import tenant_keys, tenants
from registry.errors import AlreadyExists, InvalidTenant, NotFound
from registry.tenancy import tenant_log
from registry.tenancy.tenant_log import TenantEvent

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
LONGEST_OVERLAP = timedelta(days=365)
_MOST = 10**15
_LIMITS = ("requests_per_minute", "concurrency", "tokens_per_day")


class TenantLimits(Record):
    """How much a tenant may ask; None is no limit. Raises InvalidTenant for anything but a whole number."""

    requests_per_minute: int | None = None
    concurrency: int | None = None
    """Requests that are being answered at once."""
    tokens_per_day: int | None = None
    """Prompt and completion, per day in UTC."""

    @field_validator(*_LIMITS, mode="before")
    @classmethod
    def _whole_numbers(cls, value: object) -> object:
        if value is not None and (type(value) is not int or not 1 <= value <= _MOST):
            raise InvalidTenant(f"a limit of {value!r}: expected a whole number from 1 to 10^15, or none")
        return value


class Tenant(Record):
    """Who may ask of `channel`; `salt` is for the prefix cache and is not shown, printed or dumped."""

    name: str
    channel: str
    limits: TenantLimits
    pinned: bool
    """Its adapter is not evicted."""
    salt: str = Field(repr=False, exclude=True)
    created: datetime


class TenantKey(Record):
    """A key without its secret. It is live while it is not revoked and `expires` is not over."""

    id: str
    tenant: str
    created: datetime
    expires: datetime | None
    revoked: datetime | None

    def live(self, at: datetime) -> bool:
        """Whether the key opens anything at that time."""
        return self.revoked is None and (self.expires is None or self.expires > at)


class Tenants:
    """The tenants of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, name: str, channel: str, who: str, limits: TenantLimits | None = None, pinned: bool = False
    ) -> tuple[Tenant, TenantKey, str]:
        """A new tenant, its first key, and that key's text, which is not kept: show it once.

        The channel need not exist yet. Raises AlreadyExists, InvalidTenant for a bad name, InvalidArtifact
        for a bad name of a channel or of `who`.
        """
        _check(name)
        check_name(channel)
        check_text("the name of whoever adds the tenant", who)
        given = limits or TenantLimits()
        with self._database.write() as connection:
            if _row(connection, name) is not None:
                raise AlreadyExists(
                    f"tenant {name} exists; `tuneline tenants set` changes it, "
                    "`tuneline tenants rotate` gives it another key"
                )
            row = {"name": name, "channel": channel, "pinned": int(pinned), "salt": secrets.token_hex(16)}
            row |= {**given.model_dump(), "created": now(), "changes": 1}
            connection.execute(insert(tenants), row)
            key, text = _new_key(connection, name)
            tenant_log.record(connection, name, "add", who)
            return _tenant(_existing(connection, name)), key, text

    def change(
        self,
        name: str,
        who: str,
        channel: str | None = None,
        limits: TenantLimits | None = None,
        pinned: bool | None = None,
    ) -> Tenant:
        """Change what is given; of `limits`, the fields that were named when it was made, also to None.

        What changes nothing is not recorded. Raises NotFound, and InvalidArtifact as `add` does.
        """
        check_text("the name of whoever changes the tenant", who)
        new: dict[str, Any] = {} if pinned is None else {"pinned": int(pinned)}
        if channel is not None:
            check_name(channel)
            new["channel"] = channel
        if limits is not None:
            new |= {field: getattr(limits, field) for field in limits.model_fields_set}
        with self._database.write() as connection:
            before = _existing(connection, name)
            if any(getattr(before, field) != value for field, value in new.items()):
                _step(connection, before, new)
                tenant_log.record(connection, name, "change", who)
            return _tenant(_existing(connection, name))

    def get(self, name: str) -> Tenant:
        """The tenant of this name; raises NotFound."""
        with self._database.read() as connection:
            return _tenant(_existing(connection, name))

    def ls(self) -> list[Tenant]:
        """All tenants by name."""
        with self._database.read() as connection:
            return list(every(connection).values())

    def keys(self, name: str) -> list[TenantKey]:
        """Every key that the tenant had, oldest first. Raises NotFound."""
        with self._database.read() as connection:
            _existing(connection, name)
            query = select(tenant_keys).where(tenant_keys.c.tenant == name)
            return [
                TenantKey.of_row(row) for row in connection.execute(query.order_by(tenant_keys.c.sequence))
            ]

    def rotate(self, name: str, who: str, overlap: timedelta) -> tuple[TenantKey, str]:
        """A new key and its text, which is not kept; the live ones before it end after `overlap`, or sooner.

        Raises NotFound, InvalidTenant for an overlap below 0 or above a year.
        """
        check_text("the name of whoever rotates the key", who)
        if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
            raise InvalidTenant(f"an overlap of {overlap}: expected from 0 to {LONGEST_OVERLAP.days} days")
        with self._database.write() as connection:
            before = _existing(connection, name)
            at = datetime.now(UTC)
            end = (at + overlap).isoformat(timespec="microseconds")
            later = tenant_keys.c.expires.is_(None) | (tenant_keys.c.expires > end)
            old = (tenant_keys.c.tenant == name) & tenant_keys.c.revoked.is_(None) & later
            connection.execute(update(tenant_keys).where(old), {"expires": end})
            key, text = _new_key(connection, name)
            _step(connection, before, {})
            tenant_log.record(connection, name, "rotate", who)
            return key, text

    def revoke(self, name: str, who: str, key_id: str | None = None) -> list[TenantKey]:
        """End one key or, with no `key_id`, all of them, at once; returns those that this ended.

        Raises NotFound for a tenant, or a key of it, that does not exist.
        """
        check_text("the name of whoever revokes the key", who)
        with self._database.write() as connection:
            before = _existing(connection, name)
            mine = tenant_keys.c.tenant == name
            if key_id is not None:
                mine &= tenant_keys.c.id == key_id
                if connection.execute(select(tenant_keys.c.id).where(mine)).first() is None:
                    raise NotFound(
                        f"tenant {name} has no key {key_id[:40]!r}; `tuneline tenants show {name}` lists them"
                    )
            query = select(tenant_keys).where(mine & tenant_keys.c.revoked.is_(None))
            ended = [row.id for row in connection.execute(query)]
            if ended:
                these = tenant_keys.c.id.in_(ended)
                connection.execute(update(tenant_keys).where(these), {"revoked": now()})
                _step(connection, before, {})
                tenant_log.record(connection, name, "revoke", who)
            query = select(tenant_keys).where(tenant_keys.c.id.in_(ended)).order_by(tenant_keys.c.sequence)
            return [TenantKey.of_row(row) for row in connection.execute(query)]

    def audit(self, name: str | None = None) -> list[TenantEvent]:
        """Every change of the tenant (default: of all), oldest first.

        Raises NotFound, Corrupt when an event, a tenant or a live key is not as the events say.
        """
        with self._database.read() as connection:
            if name is not None:
                _existing(connection, name)
            return tenant_log.checked(connection, name)


def every(connection: Connection) -> dict[str, Tenant]:
    """All tenants by name, in the order of their names."""
    return {row.name: _tenant(row) for row in connection.execute(select(tenants).order_by(tenants.c.name))}


def unrevoked_keys(connection: Connection) -> dict[str, TenantKey]:
    """By the sha256 (hex) of the whole key; those that have expired are among them."""
    query = select(tenant_keys).where(tenant_keys.c.revoked.is_(None))
    return {row.sha256: TenantKey.of_row(row) for row in connection.execute(query)}


def key_digest(text: str) -> str:
    """What of a key is stored: the sha256 (hex) of all of it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _new_key(connection: Connection, tenant: str) -> tuple[TenantKey, str]:
    key_id = secrets.token_hex(6)
    text = f"tl-{key_id}-{secrets.token_urlsafe(32)}"
    row = {"id": key_id, "sha256": key_digest(text), "tenant": tenant, "created": now()}
    connection.execute(insert(tenant_keys), row)
    query = select(tenant_keys).where(tenant_keys.c.id == key_id)
    return TenantKey.of_row(connection.execute(query).one()), text


def _step(connection: Connection, before: Row[Any], new: Mapping[str, Any]) -> None:
    same = tenants.c.name == before.name
    connection.execute(update(tenants).where(same), {**new, "changes": before.changes + 1})


def _row(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(tenants).where(tenants.c.name == name)).one_or_none()


def _existing(connection: Connection, name: str) -> Row[Any]:
    _check(name)
    row = _row(connection, name)
    if row is None:
        raise NotFound(f"no tenant {name!r}; `tuneline tenants ls` lists them")
    return row


@lru_cache(maxsize=1024)  # many tenants, few plans
def _limits(
    requests_per_minute: int | None, concurrency: int | None, tokens_per_day: int | None
) -> TenantLimits:
    return TenantLimits(
        requests_per_minute=requests_per_minute, concurrency=concurrency, tokens_per_day=tokens_per_day
    )


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant.of_row(row, limits=_limits(*(getattr(row, name) for name in _LIMITS)))


def _check(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidTenant(
            f"{name[:80]!r} is not a valid tenant name; expected up to 64 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit"
        )
