"""What tenants agreed to have kept of their requests: nothing, unless it is recorded here; a chained log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypedDict

from sqlalchemy import Connection, func, select

from registry.artifacts import Record
from registry.channels.channels import check_text
from registry.db.engine import Database, now
from registry.db.feed_tables import consents, feeds
from registry.db.serving_tables import tenants
from registry.errors import InvalidTenant, NotFound
from registry.event_log import EventLog
from registry.tenancy.redaction import RULES

LOG = EventLog("consents of tenant", consents.c.tenant, consents.c.number)
LONGEST_DAYS = 3650


class Consent(Record):
    """What a tenant agreed to: of `sample` (0..1) of its requests prompt and answer are kept for `days`.

    The rules of `redact` are applied before anything is written. Rows that come of it go to `feed`.
    """

    tenant: str
    feed: str
    sample: float
    days: int
    redact: tuple[str, ...]
    who: str
    at: datetime


class ConsentEvent(Consent):
    """One change; `digest` covers it and all before it of this tenant."""

    number: int
    action: Literal["give", "withdraw"]
    previous_digest: str
    digest: str


class _Terms(TypedDict):
    """As the table has them: `redact` is a list in JSON."""

    feed: str
    sample: float
    days: int
    redact: str


class Consents:
    """The consents of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def give(
        self, tenant: str, feed: str, sample: float, days: int, redact: Sequence[str], who: str
    ) -> Consent:
        """Record what the tenant agreed to, in place of what stood before.

        Raises NotFound for a tenant or a feed that is not there, InvalidTenant for a share, a time or a rule
        that cannot be.
        """
        check_text("the name of whoever records the consent", who)
        if not 0 <= sample <= 1:
            raise InvalidTenant(f"a sample of {sample}: expected a share of the requests, from 0 to 1")
        if not 1 <= days <= LONGEST_DAYS:
            raise InvalidTenant(f"{days} days: expected from 1 to {LONGEST_DAYS:,}")
        if unknown := sorted(set(redact) - set(RULES)):
            raise InvalidTenant(f"redaction {', '.join(unknown)[:80]}: expected some of {', '.join(RULES)}")
        chosen = [rule for rule in RULES if rule in redact]
        terms: _Terms = {"feed": feed, "sample": sample, "days": days, "redact": json.dumps(chosen)}
        with self._database.write() as connection:
            if connection.execute(select(feeds.c.name).where(feeds.c.name == feed)).first() is None:
                raise NotFound(f"no feed {feed[:80]!r}; `tuneline feed ls` lists them, `feed add` makes one")
            return _record(connection, tenant, "give", terms, who)

    def withdraw(self, tenant: str, who: str) -> None:
        """From now on nothing is kept; what is there stays until it is forgotten. Raises NotFound."""
        check_text("the name of whoever records it", who)
        with self._database.write() as connection:
            standing = in_force(connection).get(tenant)
            if standing is None:
                raise NotFound(f"tenant {tenant[:80]!r} has no consent in force")
            terms: _Terms = {
                "feed": standing.feed,
                "sample": standing.sample,
                "days": standing.days,
                "redact": json.dumps(standing.redact),
            }
            _record(connection, tenant, "withdraw", terms, who)

    def ls(self) -> list[Consent]:
        """Those in force, by tenant."""
        with self._database.read() as connection:
            return list(in_force(connection).values())

    def audit(self, tenant: str | None = None) -> list[ConsentEvent]:
        """Every change, oldest first. Raises Corrupt where one was changed."""
        with self._database.read() as connection:
            return [
                ConsentEvent.of_row(row, redact=json.loads(row.redact))
                for row in LOG.verified(connection, tenant)
            ]


def in_force(connection: Connection) -> dict[str, Consent]:
    """By tenant, in the order of their names."""
    latest = select(func.max(consents.c.sequence)).group_by(consents.c.tenant)
    query = select(consents).where(consents.c.sequence.in_(latest), consents.c.action == "give")
    rows = connection.execute(query.order_by(consents.c.tenant))
    return {row.tenant: Consent.of_row(row, redact=json.loads(row.redact)) for row in rows}


def _record(connection: Connection, tenant: str, action: str, terms: _Terms, who: str) -> Consent:
    if connection.execute(select(tenants.c.name).where(tenants.c.name == tenant)).first() is None:
        raise NotFound(f"no tenant {tenant[:80]!r}; `tuneline tenants ls` lists them")
    last = select(func.max(consents.c.number)).where(consents.c.tenant == tenant)
    number = int(connection.execute(last).scalar_one() or 0) + 1
    event = {"action": action, **terms, "who": who, "at": now()}
    LOG.append(connection, tenant, number, event)
    return Consent.model_validate(
        {"tenant": tenant, **terms, "redact": json.loads(terms["redact"]), "who": who, "at": event["at"]}
    )
