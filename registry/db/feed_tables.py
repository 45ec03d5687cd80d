"""The tables of feeds: rows that are added and can be forgotten; consents, receipts of answers, feedback."""

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

from registry.db.schedule_tables import metadata  # whoever has this module's tables has all before it
from registry.db.serving_tables import tenants
from registry.db.tables import artifacts, chain, sha256_hex, string

feeds = Table(
    "feeds",
    metadata,
    Column("name", string(64), primary_key=True),
    Column("created", string(32), nullable=False),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    Column("directory", Text, comment="is read before the feed is; null: none"),
)

feed_rows = Table(
    "feed_rows",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("feed", string(64), ForeignKey(feeds.c.name), nullable=False),
    Column("number", Integer, CheckConstraint("number >= 1"), nullable=False),
    Column("kind", string(10), CheckConstraint("kind IN ('chat', 'preference')"), nullable=False),
    Column(
        "origin",
        string(10),
        CheckConstraint("origin IN ('file', 'http', 'answer', 'correction')"),
        nullable=False,
    ),
    Column("key", string(64), nullable=False, comment="sha256: what came already does not come twice"),
    Column("place", Text, comment="file and line, where it is from a file"),
    Column("tenant", string(64)),
    Column("request", string(32)),
    Column("artifact_id", string(64), ForeignKey(artifacts.c.id), comment="what gave the answer"),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    Column("at", string(32), nullable=False),
    Column("expires", string(32)),
    Column("content", Text, comment="JSON; null once forgotten"),
    Column("forgotten", string(32)),
    sha256_hex("key"),
    CheckConstraint("(content IS NULL) = (forgotten IS NOT NULL)", name="forgotten_is_without_content"),
    UniqueConstraint("feed", "number"),
    UniqueConstraint("feed", "key"),
)
Index("feed_rows_by_tenant", feed_rows.c.tenant)
Index("feed_rows_by_request", feed_rows.c.request)

forgettings = Table(
    "forgettings",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("tenant", string(64)),
    Column("request", string(32)),
    Column("rows", Text, nullable=False, comment="JSON: feed → numbers of the rows that this forgot"),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    Column("at", string(32), nullable=False),
)

consents = Table(
    "consents",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("tenant", string(64), ForeignKey(tenants.c.name), nullable=False),
    Column("number", Integer, CheckConstraint("number >= 1"), nullable=False),
    Column("action", string(8), CheckConstraint("action IN ('give', 'withdraw')"), nullable=False),
    Column("feed", string(64), ForeignKey(feeds.c.name), nullable=False),
    Column("sample", Float, CheckConstraint("sample BETWEEN 0 AND 1"), nullable=False),
    Column("days", Integer, CheckConstraint("days >= 1"), nullable=False),
    Column("redact", Text, nullable=False, comment="JSON list of rules"),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    *chain(),
    UniqueConstraint("tenant", "number"),
    comment="a tenant's latest row is in force; one that has none agreed to nothing",
)

receipts = Table(
    "receipts",
    metadata,
    Column("request", string(32), CheckConstraint("length(request) = 32"), primary_key=True),
    Column("tenant", string(64), ForeignKey(tenants.c.name), nullable=False, index=True),
    Column("key_id", string(12), nullable=False),
    Column("feed", string(64), nullable=False),
    Column("channel", string(129), nullable=False),
    Column("artifact_id", string(64), ForeignKey(artifacts.c.id), nullable=False),
    Column("arm", string(6), CheckConstraint("arm IN ('live', 'canary')"), nullable=False),
    Column("at", string(32), nullable=False),
    Column("expires", string(32), nullable=False, index=True),
    Column("messages", Text, comment="JSON, redacted; null where the request was not sampled"),
    Column("answer", Text, comment="redacted"),
    comment="answers to tenants that agreed; gone once expired or forgotten",
)

feedback = Table(
    "feedback",
    metadata,
    Column("request", string(32), primary_key=True),
    Column("tenant", string(64), ForeignKey(tenants.c.name), nullable=False, index=True),
    Column("key_id", string(12), nullable=False),
    Column("channel", string(129), nullable=False),
    Column("artifact_id", string(64), ForeignKey(artifacts.c.id), nullable=False),
    Column("arm", string(6), CheckConstraint("arm IN ('live', 'canary')"), nullable=False),
    Column("thumbs", string(4), CheckConstraint("thumbs IN ('up', 'down')")),
    Column("score", Float, CheckConstraint("score BETWEEN 0 AND 1")),
    Column("corrected", Integer, CheckConstraint("corrected IN (0, 1)"), nullable=False),
    Column("at", string(32), nullable=False),
    comment="one a request; holds no words",
)
Index("feedback_by_channel", feedback.c.channel, feedback.c.at)
