"""The tables for serving many tenants: who may ask, how much, what is tried out, and how it went."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from registry.db.tables import LARGE, chain, metadata, sha256_hex, string


def _later(name: str, holds: str) -> Column[int]:
    """A count that rows of before it do not have."""
    return Column(name, Integer, CheckConstraint(holds), nullable=False, server_default=text("0"))


serving_version = Table(
    "serving_version",
    metadata,
    Column("only", Integer, CheckConstraint('"only" = 1'), primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    comment="grows with every row of the logs of channels, tenants, rollouts and consents; triggers do it",
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", string(64), primary_key=True),
    Column("channel", string(129), nullable=False, comment="need not exist yet"),
    Column("requests_per_minute", LARGE, CheckConstraint("requests_per_minute >= 1")),
    Column("concurrency", LARGE, CheckConstraint("concurrency >= 1")),
    Column("tokens_per_day", LARGE, CheckConstraint("tokens_per_day >= 1")),
    Column("pinned", Integer, CheckConstraint("pinned IN (0, 1)"), nullable=False),
    Column("salt", string(32), CheckConstraint("length(salt) = 32"), nullable=False, unique=True),
    Column("created", string(32), nullable=False),
    Column("changes", Integer, CheckConstraint("changes >= 1"), nullable=False),
    comment="as tenant_events left each; changes is the number of its latest event",
)

tenant_keys = Table(
    "tenant_keys",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("id", string(12), CheckConstraint("length(id) = 12"), nullable=False, unique=True),
    Column("sha256", string(64), nullable=False, unique=True, comment="of the key; the key is nowhere"),
    Column("tenant", string(64), ForeignKey("tenants.name"), nullable=False, index=True),
    Column("created", string(32), nullable=False),
    Column("expires", string(32)),
    Column("revoked", string(32)),
    sha256_hex("sha256"),
)

tenant_events = Table(
    "tenant_events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("tenant", string(64), ForeignKey("tenants.name"), nullable=False),
    Column("number", Integer, CheckConstraint("number >= 1"), nullable=False),
    Column(
        "action",
        string(6),
        CheckConstraint("action IN ('add', 'change', 'rotate', 'revoke')"),
        nullable=False,
    ),
    Column("state", Text, nullable=False, comment="JSON of the tenant and its live keys after the event"),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    *chain(),
    UniqueConstraint("tenant", "number"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("channel", string(129), ForeignKey("channels.name"), primary_key=True),
    Column("number", Integer, CheckConstraint("number >= 1"), nullable=False),
    comment="the number of each channel's latest rollout event",
)

rollout_events = Table(
    "rollout_events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("channel", string(129), ForeignKey("channels.name"), nullable=False),
    Column("number", Integer, CheckConstraint("number >= 1"), nullable=False),
    Column("action", string(5), CheckConstraint("action IN ('start', 'stop')"), nullable=False),
    Column("generation", Integer, nullable=False, comment="of the channel at that time"),
    Column("candidate", string(64), ForeignKey("artifacts.id"), nullable=False),
    Column("canary_percent", Float, CheckConstraint("canary_percent BETWEEN 0 AND 100"), nullable=False),
    Column("shadow_percent", Float, CheckConstraint("shadow_percent BETWEEN 0 AND 100"), nullable=False),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    Column("reason", Text, CheckConstraint("length(reason) > 0"), nullable=False),
    *chain(),
    UniqueConstraint("channel", "number"),
)

gateways = Table(
    "gateways",
    metadata,
    Column("id", string(16), primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started", Float, nullable=False),
    Column("beat", Float, nullable=False, comment="seconds since the epoch"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("day", string(10), CheckConstraint("length(day) = 10"), primary_key=True),
    Column("tenant", string(64), ForeignKey("tenants.name"), primary_key=True),
    Column("used", LARGE, CheckConstraint("used >= 0"), nullable=False),
    Column("reserved", LARGE, CheckConstraint("reserved >= 0"), nullable=False),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", string(32), CheckConstraint("length(id) = 32"), primary_key=True),
    Column("gateway", string(16), ForeignKey("gateways.id"), nullable=False, index=True),
    Column("day", string(10), nullable=False),
    Column("tenant", string(64), nullable=False),
    Column("tokens", LARGE, CheckConstraint("tokens >= 0"), nullable=False),
    comment="tokens of requests that are being answered; gone once settled",
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("channel", string(129), nullable=False),
    Column("generation", Integer, CheckConstraint("generation >= 1"), nullable=False),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), nullable=False),
    Column("arm", string(6), CheckConstraint("arm IN ('live', 'canary', 'shadow')"), nullable=False),
    Column("minute", string(32), nullable=False),
    Column("requests", Integer, CheckConstraint("requests >= 0"), nullable=False),
    Column("failed", Integer, CheckConstraint("failed BETWEEN 0 AND requests"), nullable=False),
    Column("truncated", Integer, CheckConstraint("truncated BETWEEN 0 AND requests"), nullable=False),
    Column("prompt_tokens", LARGE, CheckConstraint("prompt_tokens >= 0"), nullable=False),
    Column("completion_tokens", LARGE, CheckConstraint("completion_tokens >= 0"), nullable=False),
    Column("compared", Integer, CheckConstraint("compared >= 0"), nullable=False),
    Column("agreed", Integer, CheckConstraint("agreed BETWEEN 0 AND compared"), nullable=False),
    Column("latencies_ms", Text, nullable=False, comment="JSON list of numbers"),
    Column("first_token_ms", Text, nullable=False, comment="JSON list of numbers"),
    _later("checked", "checked BETWEEN 0 AND requests"),
    _later("not_json", "not_json BETWEEN 0 AND checked"),
    _later("rated", "rated >= 0"),
    _later("disliked", "disliked BETWEEN 0 AND rated"),
)
Index("outcomes_by_channel", outcomes.c.channel, outcomes.c.minute)
