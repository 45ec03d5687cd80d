"""The tables of access: users, their tokens and sign-ins; webhooks and what is sent to them."""

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
)

from registry.db.tables import chain, metadata, sha256_hex, string

users = Table(
    "users",
    metadata,
    Column("name", string(128), primary_key=True),
    Column("role", string(8), CheckConstraint("role IN ('viewer', 'operator', 'admin')"), nullable=False),
    Column("identity", Text, unique=True, comment="issuer and subject of OpenID Connect; null: has a token"),
    Column("created", string(32), nullable=False),
    Column("revoked", string(32)),
    Column("changes", Integer, CheckConstraint("changes >= 1"), nullable=False),
    comment="as access_events left each; changes is the number of its latest event",
)

user_tokens = Table(
    "user_tokens",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("id", string(12), CheckConstraint("length(id) = 12"), nullable=False, unique=True),
    Column("sha256", string(64), nullable=False, unique=True, comment="of the token; the token is nowhere"),
    Column("owner", string(128), ForeignKey("users.name"), nullable=False, index=True),
    Column("created", string(32), nullable=False),
    Column("revoked", string(32)),
    sha256_hex("sha256"),
)

sign_ins = Table(
    "sign_ins",
    metadata,
    Column("sha256", string(64), primary_key=True, comment="of the session's id; the id is in a cookie"),
    Column("owner", string(128), ForeignKey("users.name"), comment="null: the one person without accounts"),
    Column("created", Float, nullable=False, comment="seconds since the epoch"),
    Column("used", Float, nullable=False, comment="seconds since the epoch"),
    sha256_hex("sha256"),
)
Index("sign_ins_by_owner", sign_ins.c.owner)

cookie_key = Table(
    "cookie_key",
    metadata,
    Column("only", Integer, CheckConstraint('"only" = 1'), primary_key=True, autoincrement=False),
    Column("key", string(64), nullable=False, comment="32 random bytes in hex; signs cookies"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", string(12), CheckConstraint("length(id) = 12"), primary_key=True),
    Column("url", Text, nullable=False),
    Column("events", Text, nullable=False, comment="JSON list"),
    Column("secret", string(64), nullable=False, comment="signing needs the secret itself"),
    Column("private", Integer, CheckConstraint("private IN (0, 1)"), nullable=False),
    Column("created", string(32), nullable=False),
    Column("removed", string(32)),
    Column("changes", Integer, CheckConstraint("changes >= 1"), nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("id", string(32), CheckConstraint("length(id) = 32"), nullable=False, unique=True),
    Column("webhook", string(12), ForeignKey("webhooks.id"), nullable=False, index=True),
    Column("event", string(16), nullable=False),
    Column("body", Text, comment="null once it was delivered or given up"),
    Column(
        "state",
        string(9),
        CheckConstraint("state IN ('waiting', 'delivered', 'failed')"),
        nullable=False,
    ),
    Column("attempts", Integer, CheckConstraint("attempts >= 0"), nullable=False),
    Column("due", Float, nullable=False, comment="seconds since the epoch; also the end of a claim"),
    Column("answer", Integer, comment="HTTP status of the last attempt"),
    Column("error", Text, comment="of the last attempt"),
    Column("created", string(32), nullable=False),
    Column("finished", string(32)),
    CheckConstraint("(state = 'waiting') = (body IS NOT NULL)", name="kept_until_it_ends"),
    comment="written in the transaction of what it tells of",
)
Index("webhook_deliveries_due", webhook_deliveries.c.state, webhook_deliveries.c.due)

access_events = Table(
    "access_events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("subject", string(160), nullable=False, comment="user NAME, or webhook ID"),
    Column("number", Integer, CheckConstraint("number >= 1"), nullable=False),
    Column("action", string(6), CheckConstraint("action IN ('add', 'role', 'revoke')"), nullable=False),
    Column("state", Text, nullable=False, comment="JSON of what it is about, after the event"),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    *chain(),
    UniqueConstraint("subject", "number"),
)
