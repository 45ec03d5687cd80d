CREATE TABLE feeds (
    name VARCHAR(64) COLLATE "C" NOT NULL,
    created VARCHAR(32) COLLATE "C" NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    directory TEXT,
    PRIMARY KEY (name)
);
CREATE TABLE feed_rows (
    sequence SERIAL NOT NULL,
    feed VARCHAR(64) COLLATE "C" NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    kind VARCHAR(10) COLLATE "C" NOT NULL CHECK (kind IN ('chat', 'preference')),
    origin VARCHAR(10) COLLATE "C" NOT NULL CHECK (origin IN ('file', 'http', 'answer', 'correction')),
    key VARCHAR(64) COLLATE "C" NOT NULL,
    place TEXT,
    tenant VARCHAR(64) COLLATE "C",
    request VARCHAR(32) COLLATE "C",
    artifact_id VARCHAR(64) COLLATE "C",
    who TEXT NOT NULL CHECK (length(who) > 0),
    at VARCHAR(32) COLLATE "C" NOT NULL,
    expires VARCHAR(32) COLLATE "C",
    content TEXT,
    forgotten VARCHAR(32) COLLATE "C",
    PRIMARY KEY (sequence),
    CONSTRAINT key_is_sha256 CHECK (length(key) = 64),
    CONSTRAINT forgotten_is_without_content CHECK ((content IS NULL) = (forgotten IS NOT NULL)),
    UNIQUE (feed, number),
    UNIQUE (feed, key),
    FOREIGN KEY(feed) REFERENCES feeds (name),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE INDEX feed_rows_by_request ON feed_rows (request);
CREATE INDEX feed_rows_by_tenant ON feed_rows (tenant);
CREATE TABLE forgettings (
    sequence SERIAL NOT NULL,
    tenant VARCHAR(64) COLLATE "C",
    request VARCHAR(32) COLLATE "C",
    rows TEXT NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    at VARCHAR(32) COLLATE "C" NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE TABLE consents (
    sequence SERIAL NOT NULL,
    tenant VARCHAR(64) COLLATE "C" NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    action VARCHAR(8) COLLATE "C" NOT NULL CHECK (action IN ('give', 'withdraw')),
    feed VARCHAR(64) COLLATE "C" NOT NULL,
    sample FLOAT NOT NULL CHECK (sample BETWEEN 0 AND 1),
    days INTEGER NOT NULL CHECK (days >= 1),
    redact TEXT NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    at VARCHAR(32) COLLATE "C" NOT NULL,
    previous_digest VARCHAR(64) COLLATE "C" NOT NULL,
    digest VARCHAR(64) COLLATE "C" NOT NULL,
    PRIMARY KEY (sequence),
    UNIQUE (tenant, number),
    FOREIGN KEY(tenant) REFERENCES tenants (name),
    FOREIGN KEY(feed) REFERENCES feeds (name),
    UNIQUE (digest)
);
CREATE TABLE receipts (
    request VARCHAR(32) COLLATE "C" NOT NULL CHECK (length(request) = 32),
    tenant VARCHAR(64) COLLATE "C" NOT NULL,
    key_id VARCHAR(12) COLLATE "C" NOT NULL,
    feed VARCHAR(64) COLLATE "C" NOT NULL,
    channel VARCHAR(129) COLLATE "C" NOT NULL,
    artifact_id VARCHAR(64) COLLATE "C" NOT NULL,
    arm VARCHAR(6) COLLATE "C" NOT NULL CHECK (arm IN ('live', 'canary')),
    at VARCHAR(32) COLLATE "C" NOT NULL,
    expires VARCHAR(32) COLLATE "C" NOT NULL,
    messages TEXT,
    answer TEXT,
    PRIMARY KEY (request),
    FOREIGN KEY(tenant) REFERENCES tenants (name),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE INDEX ix_receipts_expires ON receipts (expires);
CREATE INDEX ix_receipts_tenant ON receipts (tenant);
CREATE TABLE feedback (
    request VARCHAR(32) COLLATE "C" NOT NULL,
    tenant VARCHAR(64) COLLATE "C" NOT NULL,
    key_id VARCHAR(12) COLLATE "C" NOT NULL,
    channel VARCHAR(129) COLLATE "C" NOT NULL,
    artifact_id VARCHAR(64) COLLATE "C" NOT NULL,
    arm VARCHAR(6) COLLATE "C" NOT NULL CHECK (arm IN ('live', 'canary')),
    thumbs VARCHAR(4) COLLATE "C" CHECK (thumbs IN ('up', 'down')),
    score FLOAT CHECK (score BETWEEN 0 AND 1),
    corrected INTEGER NOT NULL CHECK (corrected IN (0, 1)),
    at VARCHAR(32) COLLATE "C" NOT NULL,
    PRIMARY KEY (request),
    FOREIGN KEY(tenant) REFERENCES tenants (name),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE INDEX feedback_by_channel ON feedback (channel, at);
CREATE INDEX ix_feedback_tenant ON feedback (tenant);
