"""From an older schema to this one, in one transaction: then all is as in a fresh database, with its rows.

The tables of each step are written out here and not taken from `schema`, which will have moved on by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection

from registry.db import tables as schema
from registry.db import triggers

_FROM_1 = (
    "CREATE INDEX artifacts_by_stage ON artifacts (stage, sequence)",
    "CREATE INDEX artifacts_by_base ON artifacts (base_revision, sequence)",
    "CREATE INDEX artifacts_by_quantization ON artifacts (quant_method, sequence)",
    "ALTER TABLE leases ADD COLUMN holds TEXT",
    "ALTER TABLE gate_decisions ADD COLUMN signer VARCHAR(64)",
    "ALTER TABLE gate_decisions ADD COLUMN signature TEXT CHECK ((signer IS NULL) = (signature IS NULL))",
    """CREATE TABLE keys_2 (
        "key" VARCHAR(64) NOT NULL,
        artifact_id VARCHAR(64) NOT NULL,
        created VARCHAR(32) NOT NULL,
        PRIMARY KEY ("key", artifact_id),
        CONSTRAINT key_is_sha256 CHECK (length("key") = 64),
        FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
    )""",
    'INSERT INTO keys_2 SELECT "key", artifact_id, created FROM keys',
    "DROP TABLE keys",
    "ALTER TABLE keys_2 RENAME TO keys",
    """CREATE TABLE content_events (
        sequence INTEGER NOT NULL,
        artifact_id VARCHAR(64) NOT NULL,
        action VARCHAR(9) NOT NULL CHECK (action IN ('collected', 'restored')),
        bytes INTEGER NOT NULL,
        at VARCHAR(32) NOT NULL,
        PRIMARY KEY (sequence),
        FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
    )""",
    "CREATE INDEX content_events_by_artifact ON content_events (artifact_id, sequence)",
    """CREATE TABLE channel_policies (
        sequence INTEGER NOT NULL,
        channel VARCHAR(129) NOT NULL,
        policy TEXT NOT NULL,
        digest VARCHAR(64) NOT NULL,
        who TEXT NOT NULL CHECK (length(who) > 0),
        reason TEXT NOT NULL CHECK (length(reason) > 0),
        at VARCHAR(32) NOT NULL,
        PRIMARY KEY (sequence)
    )""",
    "CREATE INDEX channel_policies_by_channel ON channel_policies (channel, sequence)",
)

_FROM_2 = (
    """CREATE TABLE deletions (
        sha256 VARCHAR(64) NOT NULL,
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        pid_started FLOAT NOT NULL,
        expires FLOAT NOT NULL,
        PRIMARY KEY (sha256)
    )""",
    """CREATE TABLE serving_version (
        "only" INTEGER NOT NULL CHECK ("only" = 1),
        version INTEGER NOT NULL,
        PRIMARY KEY ("only")
    )""",
    'INSERT INTO serving_version ("only", version) VALUES (1, 0)',
    """CREATE TABLE tenants (
        name VARCHAR(64) NOT NULL,
        channel VARCHAR(129) NOT NULL,
        requests_per_minute BIGINT CHECK (requests_per_minute >= 1),
        concurrency BIGINT CHECK (concurrency >= 1),
        tokens_per_day BIGINT CHECK (tokens_per_day >= 1),
        pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
        salt VARCHAR(32) NOT NULL CHECK (length(salt) = 32),
        created VARCHAR(32) NOT NULL,
        changes INTEGER NOT NULL CHECK (changes >= 1),
        PRIMARY KEY (name),
        UNIQUE (salt)
    )""",
    """CREATE TABLE tenant_keys (
        sequence SERIAL NOT NULL,
        id VARCHAR(12) NOT NULL CHECK (length(id) = 12),
        sha256 VARCHAR(64) NOT NULL,
        tenant VARCHAR(64) NOT NULL,
        created VARCHAR(32) NOT NULL,
        expires VARCHAR(32),
        revoked VARCHAR(32),
        PRIMARY KEY (sequence),
        CONSTRAINT sha256_is_sha256 CHECK (length(sha256) = 64),
        UNIQUE (id),
        UNIQUE (sha256),
        FOREIGN KEY(tenant) REFERENCES tenants (name)
    )""",
    "CREATE INDEX ix_tenant_keys_tenant ON tenant_keys (tenant)",
    """CREATE TABLE tenant_events (
        sequence SERIAL NOT NULL,
        tenant VARCHAR(64) NOT NULL,
        number INTEGER NOT NULL CHECK (number >= 1),
        action VARCHAR(6) NOT NULL CHECK (action IN ('add', 'change', 'rotate', 'revoke')),
        state TEXT NOT NULL,
        who TEXT NOT NULL CHECK (length(who) > 0),
        at VARCHAR(32) NOT NULL,
        previous_digest VARCHAR(64) NOT NULL,
        digest VARCHAR(64) NOT NULL,
        PRIMARY KEY (sequence),
        UNIQUE (tenant, number),
        FOREIGN KEY(tenant) REFERENCES tenants (name),
        UNIQUE (digest)
    )""",
    """CREATE TABLE rollouts (
        channel VARCHAR(129) NOT NULL,
        number INTEGER NOT NULL CHECK (number >= 1),
        PRIMARY KEY (channel),
        FOREIGN KEY(channel) REFERENCES channels (name)
    )""",
    """CREATE TABLE rollout_events (
        sequence SERIAL NOT NULL,
        channel VARCHAR(129) NOT NULL,
        number INTEGER NOT NULL CHECK (number >= 1),
        action VARCHAR(5) NOT NULL CHECK (action IN ('start', 'stop')),
        generation INTEGER NOT NULL,
        candidate VARCHAR(64) NOT NULL,
        canary_percent FLOAT NOT NULL CHECK (canary_percent BETWEEN 0 AND 100),
        shadow_percent FLOAT NOT NULL CHECK (shadow_percent BETWEEN 0 AND 100),
        who TEXT NOT NULL CHECK (length(who) > 0),
        reason TEXT NOT NULL CHECK (length(reason) > 0),
        at VARCHAR(32) NOT NULL,
        previous_digest VARCHAR(64) NOT NULL,
        digest VARCHAR(64) NOT NULL,
        PRIMARY KEY (sequence),
        UNIQUE (channel, number),
        FOREIGN KEY(channel) REFERENCES channels (name),
        FOREIGN KEY(candidate) REFERENCES artifacts (id),
        UNIQUE (digest)
    )""",
    """CREATE TABLE gateways (
        id VARCHAR(16) NOT NULL,
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        pid_started FLOAT NOT NULL,
        beat FLOAT NOT NULL,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE budgets (
        day VARCHAR(10) NOT NULL CHECK (length(day) = 10),
        tenant VARCHAR(64) NOT NULL,
        used BIGINT NOT NULL CHECK (used >= 0),
        reserved BIGINT NOT NULL CHECK (reserved >= 0),
        PRIMARY KEY (day, tenant),
        FOREIGN KEY(tenant) REFERENCES tenants (name)
    )""",
    """CREATE TABLE reservations (
        id VARCHAR(32) NOT NULL CHECK (length(id) = 32),
        gateway VARCHAR(16) NOT NULL,
        day VARCHAR(10) NOT NULL,
        tenant VARCHAR(64) NOT NULL,
        tokens BIGINT NOT NULL CHECK (tokens >= 0),
        PRIMARY KEY (id),
        FOREIGN KEY(gateway) REFERENCES gateways (id)
    )""",
    "CREATE INDEX ix_reservations_gateway ON reservations (gateway)",
    """CREATE TABLE outcomes (
        sequence SERIAL NOT NULL,
        channel VARCHAR(129) NOT NULL,
        generation INTEGER NOT NULL CHECK (generation >= 1),
        artifact_id VARCHAR(64) NOT NULL,
        arm VARCHAR(6) NOT NULL CHECK (arm IN ('live', 'canary', 'shadow')),
        minute VARCHAR(32) NOT NULL,
        requests INTEGER NOT NULL CHECK (requests >= 0),
        failed INTEGER NOT NULL CHECK (failed BETWEEN 0 AND requests),
        truncated INTEGER NOT NULL CHECK (truncated BETWEEN 0 AND requests),
        prompt_tokens BIGINT NOT NULL CHECK (prompt_tokens >= 0),
        completion_tokens BIGINT NOT NULL CHECK (completion_tokens >= 0),
        compared INTEGER NOT NULL CHECK (compared >= 0),
        agreed INTEGER NOT NULL CHECK (agreed BETWEEN 0 AND compared),
        latencies_ms TEXT NOT NULL,
        first_token_ms TEXT NOT NULL,
        PRIMARY KEY (sequence),
        FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
    )""",
    "CREATE INDEX outcomes_by_channel ON outcomes (channel, minute)",
)

_METHODS = "CONSTRAINT known_quantization CHECK (quant_method IN (''none'', ''bnb'', ''gptq'', ''gguf'')), "
# Which methods there are is said by manifests (`registry/quantization.py`): a new one needs no new schema.
_FROM_3 = {
    "sqlite": (
        # as https://sqlite.org/lang_altertable.html removes a CHECK: no row is touched
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET sql = replace(sql, '{_METHODS}', '') WHERE name = 'artifacts'",
        "PRAGMA writable_schema = RESET",
    ),
    "postgresql": ("ALTER TABLE artifacts DROP CONSTRAINT known_quantization",),
}

STEPS: dict[int, Iterable[str] | Mapping[str, Iterable[str]]] = {1: _FROM_1, 2: _FROM_2, 3: _FROM_3}
"""Version → what leads to the next one, in PostgreSQL's words or by system. Version 1 was SQLite's alone."""

_IN_SQLITE = {"SERIAL": "INTEGER", "BIGINT": "INTEGER"}


def upgrade(connection: Connection, version: int) -> None:
    """Take the database from `version` to `schema.VERSION`; the caller holds the write lock and commits."""
    triggers.drop(connection)
    for step in range(version, schema.VERSION):
        statements, system = STEPS[step], connection.dialect.name
        for statement in statements[system] if isinstance(statements, Mapping) else statements:
            connection.exec_driver_sql(_in_words_of(system, statement))
    triggers.create(connection)


def _in_words_of(system: str, statement: str) -> str:
    """The types of `schema`, in the words of this database system."""
    if system == "sqlite":
        return re.sub(r"\b(SERIAL|BIGINT)\b", lambda word: _IN_SQLITE[word[0]], statement)
    return re.sub(r"VARCHAR\(\d+\)", lambda word: f'{word[0]} COLLATE "C"', statement)
