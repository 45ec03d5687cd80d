CREATE TABLE feeds (
    name VARCHAR(64) NOT NULL,
    created VARCHAR(32) NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    directory TEXT,
    PRIMARY KEY (name)
);
CREATE TABLE feed_rows (
    sequence INTEGER NOT NULL,
    feed VARCHAR(64) NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    kind VARCHAR(10) NOT NULL CHECK (kind IN ('chat', 'preference')),
    origin VARCHAR(10) NOT NULL CHECK (origin IN ('file', 'http', 'answer', 'correction')),
    "key" VARCHAR(64) NOT NULL,
    place TEXT,
    tenant VARCHAR(64),
    request VARCHAR(32),
    artifact_id VARCHAR(64),
    who TEXT NOT NULL CHECK (length(who) > 0),
    at VARCHAR(32) NOT NULL,
    expires VARCHAR(32),
    content TEXT,
    forgotten VARCHAR(32),
    PRIMARY KEY (sequence),
    CONSTRAINT key_is_sha256 CHECK (length(key) = 64),
    CONSTRAINT forgotten_is_without_content CHECK ((content IS NULL) = (forgotten IS NOT NULL)),
    UNIQUE (feed, number),
    UNIQUE (feed, "key"),
    FOREIGN KEY(feed) REFERENCES feeds (name),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE INDEX feed_rows_by_request ON feed_rows (request);
CREATE INDEX feed_rows_by_tenant ON feed_rows (tenant);
CREATE TABLE forgettings (
    sequence INTEGER NOT NULL,
    tenant VARCHAR(64),
    request VARCHAR(32),
    rows TEXT NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    at VARCHAR(32) NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE TABLE consents (
    sequence INTEGER NOT NULL,
    tenant VARCHAR(64) NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    action VARCHAR(8) NOT NULL CHECK (action IN ('give', 'withdraw')),
    feed VARCHAR(64) NOT NULL,
    sample FLOAT NOT NULL CHECK (sample BETWEEN 0 AND 1),
    days INTEGER NOT NULL CHECK (days >= 1),
    redact TEXT NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    at VARCHAR(32) NOT NULL,
    previous_digest VARCHAR(64) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    PRIMARY KEY (sequence),
    UNIQUE (tenant, number),
    FOREIGN KEY(tenant) REFERENCES tenants (name),
    FOREIGN KEY(feed) REFERENCES feeds (name),
    UNIQUE (digest)
);
CREATE TABLE receipts (
    request VARCHAR(32) NOT NULL CHECK (length(request) = 32),
    tenant VARCHAR(64) NOT NULL,
    key_id VARCHAR(12) NOT NULL,
    feed VARCHAR(64) NOT NULL,
    channel VARCHAR(129) NOT NULL,
    artifact_id VARCHAR(64) NOT NULL,
    arm VARCHAR(6) NOT NULL CHECK (arm IN ('live', 'canary')),
    at VARCHAR(32) NOT NULL,
    expires VARCHAR(32) NOT NULL,
    messages TEXT,
    answer TEXT,
    PRIMARY KEY (request),
    FOREIGN KEY(tenant) REFERENCES tenants (name),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE INDEX ix_receipts_expires ON receipts (expires);
CREATE INDEX ix_receipts_tenant ON receipts (tenant);
CREATE TABLE feedback (
    request VARCHAR(32) NOT NULL,
    tenant VARCHAR(64) NOT NULL,
    key_id VARCHAR(12) NOT NULL,
    channel VARCHAR(129) NOT NULL,
    artifact_id VARCHAR(64) NOT NULL,
    arm VARCHAR(6) NOT NULL CHECK (arm IN ('live', 'canary')),
    thumbs VARCHAR(4) CHECK (thumbs IN ('up', 'down')),
    score FLOAT CHECK (score BETWEEN 0 AND 1),
    corrected INTEGER NOT NULL CHECK (corrected IN (0, 1)),
    at VARCHAR(32) NOT NULL,
    PRIMARY KEY (request),
    FOREIGN KEY(tenant) REFERENCES tenants (name),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE INDEX feedback_by_channel ON feedback (channel, at);
CREATE INDEX ix_feedback_tenant ON feedback (tenant);
