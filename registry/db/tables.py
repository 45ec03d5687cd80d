"""The tables of the registry, but for those of serving; `triggers` keeps what must not change as it is."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

VERSION = 8

metadata = MetaData()

LARGE = BigInteger().with_variant(Integer, "sqlite")


def string(length: int) -> String:
    """Text that is compared by code points everywhere, as SQLite does: for order, and prefixes by index."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


schema_version = Table(
    "schema_version",
    metadata,
    Column("only", Integer, CheckConstraint('"only" = 1'), primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)

_BASE = "source revision weights_digest tokenizer_digest tokenizer_length embedding_rows chat_template_digest"
_MODEL_COLUMNS = [f"base_{name}" for name in (*_BASE.split(), "architecture")]
_MODEL_COLUMNS += [f"quant_{name}" for name in ("method", "requested", "effective", "toolchain")]
_MODEL_KINDS = "'base', 'adapter', 'merged', 'quantized'"


def chain() -> tuple[Column[str], ...]:
    """Of an append-only log: when an event was, and the digests that `registry.event_log` chains them by."""
    return (
        Column("at", string(32), nullable=False),
        Column("previous_digest", string(64), nullable=False),
        Column("digest", string(64), nullable=False, unique=True),
    )


def sha256_hex(column: str) -> CheckConstraint:
    """That the column holds as many digits as a sha256 has."""
    return CheckConstraint(f"length({column}) = 64", name=f"{column}_is_sha256")


artifacts = Table(
    "artifacts",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("id", string(64), nullable=False, unique=True),
    Column("kind", string(16), nullable=False),
    Column("stage", string(64), nullable=False),
    Column("stage_version", Integer, nullable=False),
    Column("created", string(32), nullable=False),
    Column("bytes", LARGE, nullable=False),
    Column("base_source", Text),
    Column("base_revision", Text),
    Column("base_weights_digest", string(64)),
    Column("base_tokenizer_digest", string(64)),
    Column("base_tokenizer_length", Integer),
    Column("base_embedding_rows", Integer),
    Column("base_chat_template_digest", string(64)),
    Column("base_architecture", Text),
    Column("quant_method", string(8)),
    Column("quant_requested", Text),
    Column("quant_effective", Text),
    Column("quant_calibration_dataset", string(64), ForeignKey("artifacts.id")),
    Column("quant_merge_base", string(8)),
    Column("quant_toolchain", Text),
    Column("manifest", Text, nullable=False),
    sha256_hex("id"),
    sha256_hex("base_weights_digest"),
    sha256_hex("base_tokenizer_digest"),
    sha256_hex("base_chat_template_digest"),
    CheckConstraint(f"kind IN ({_MODEL_KINDS}, 'dataset', 'evaluation')", name="known_kind"),
    CheckConstraint(
        f"kind NOT IN ({_MODEL_KINDS}) OR ({' AND '.join(f'{c} IS NOT NULL' for c in _MODEL_COLUMNS)})",
        name="a_model_names_its_base_and_quantization",
    ),
    CheckConstraint("length(base_revision) >= 7", name="revision_is_pinned"),
    CheckConstraint("base_tokenizer_length > 0 AND base_embedding_rows > 0", name="vocabulary_is_known"),
    CheckConstraint("kind <> 'quantized' OR quant_method <> 'none'", name="quantized_says_how"),
    CheckConstraint("quant_merge_base IN ('16bit', 'nf4')", name="known_merge_base"),
    sqlite_autoincrement=True,
)
Index("artifacts_by_kind", artifacts.c.kind, artifacts.c.sequence)
Index("artifacts_by_stage", artifacts.c.stage, artifacts.c.sequence)
Index("artifacts_by_base", artifacts.c.base_revision, artifacts.c.sequence)
Index("artifacts_by_quantization", artifacts.c.quant_method, artifacts.c.sequence)

edges = Table(
    "edges",
    metadata,
    Column("child", string(64), ForeignKey("artifacts.id"), primary_key=True),
    Column("relation", string(16), primary_key=True),
    Column("parent", string(64), ForeignKey("artifacts.id"), primary_key=True),
    CheckConstraint("child <> parent", name="nothing_is_its_own_parent"),
)
Index("edges_by_parent", edges.c.parent)

keys = Table(
    "keys",
    metadata,
    Column("key", string(64), primary_key=True),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), primary_key=True),
    Column("created", string(32), nullable=False),
    sha256_hex("key"),
    comment="a key may be bound again once the content of what it was bound to was collected",
)

executions = Table(
    "executions",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), nullable=False, index=True),
    Column("key", string(64), nullable=False),
    Column("started", string(40), nullable=False),
    Column("seconds", Float, nullable=False),
    Column("peak_bytes", LARGE),
    Column("host", Text, nullable=False),
)

names = Table(
    "names",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("name", string(100), nullable=False),
    Column("version", Integer, CheckConstraint("version >= 1"), nullable=False),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), nullable=False, index=True),
    UniqueConstraint("name", "version"),
    UniqueConstraint("name", "artifact_id"),
)

leases = Table(
    "leases",
    metadata,
    Column("key", string(64), primary_key=True),
    Column("token", Integer, nullable=False),
    Column("stage", string(64), nullable=False),
    Column("host", Text, comment="null once released; the row stays so that the token never goes back"),
    Column("pid", Integer, nullable=False),
    Column("pid_started", Float, nullable=False),
    Column("acquired", string(32), nullable=False),
    Column("expires", Float, nullable=False, comment="seconds since the epoch"),
    Column("holds", Text, comment="JSON list of the artifacts that the work reads"),
)

content_events = Table(
    "content_events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), nullable=False),
    Column("action", string(9), CheckConstraint("action IN ('collected', 'restored')"), nullable=False),
    Column("bytes", LARGE, nullable=False),
    Column("at", string(32), nullable=False),
    comment="an artifact's files are in the store unless its latest event says 'collected'",
)
Index("content_events_by_artifact", content_events.c.artifact_id, content_events.c.sequence)

deletions = Table(
    "deletions",
    metadata,
    Column("sha256", string(64), primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started", Float, nullable=False),
    Column("expires", Float, nullable=False, comment="seconds since the epoch"),
    comment="blobs that a collection is deleting now: nobody may count on one of them",
)

gate_decisions = Table(
    "gate_decisions",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("id", string(64), nullable=False, unique=True),
    Column("candidate", string(64), ForeignKey("artifacts.id"), nullable=False, index=True),
    Column("baseline", string(64), ForeignKey("artifacts.id")),
    Column("policy", Text, nullable=False),
    Column(
        "verdict",
        string(16),
        CheckConstraint("verdict IN ('pass', 'fail', 'insufficient', 'invalid')"),
        nullable=False,
    ),
    Column("evidence", Text, nullable=False),
    Column("created", string(32), nullable=False),
    Column("signer", string(64), comment="sha256 of the public key"),
    Column("signature", Text, CheckConstraint("(signer IS NULL) = (signature IS NULL)"), comment="base64"),
)

channel_policies = Table(
    "channel_policies",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("channel", string(129), nullable=False),
    Column("policy", Text, nullable=False),
    Column("digest", string(64), nullable=False),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    Column("reason", Text, CheckConstraint("length(reason) > 0"), nullable=False),
    Column("at", string(32), nullable=False),
    comment="the latest is the channel's policy",
)
Index("channel_policies_by_channel", channel_policies.c.channel, channel_policies.c.sequence)

channels = Table(
    "channels",
    metadata,
    Column("name", string(129), primary_key=True),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), nullable=False),
    Column("generation", Integer, CheckConstraint("generation >= 1"), nullable=False),
    Column("moved", string(32), nullable=False),
)

channel_events = Table(
    "channel_events",
    metadata,
    Column("channel", string(129), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("action", string(8), CheckConstraint("action IN ('move', 'rollback')"), nullable=False),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), nullable=False),
    Column("restores", Integer, comment="generation that a rollback went back to"),
    Column("decision_id", string(64), ForeignKey("gate_decisions.id")),
    Column("reason", Text),
    Column("who", Text),
    *chain(),
    CheckConstraint(
        "(action = 'move' AND decision_id IS NOT NULL) OR (length(reason) > 0 AND length(who) > 0)",
        name="decided_by_a_gate_or_a_person",
    ),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("id", string(16), nullable=False, unique=True),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), nullable=False),
    Column("channel", string(129)),
    Column("engine", string(32), nullable=False),
    Column("url", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started", Float, nullable=False),
    Column("log", Text, nullable=False),
    Column("started", string(32), nullable=False),
    Column("stopped", string(32)),
    Column("question", Text),
    Column("answer", Text),
    Column("config", Text, nullable=False),
)
