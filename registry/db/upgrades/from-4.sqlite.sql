CREATE TABLE users (
    name VARCHAR(128) NOT NULL,
    role VARCHAR(8) NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    identity TEXT,
    created VARCHAR(32) NOT NULL,
    revoked VARCHAR(32),
    changes INTEGER NOT NULL CHECK (changes >= 1),
    PRIMARY KEY (name),
    UNIQUE (identity)
);
CREATE TABLE user_tokens (
    sequence INTEGER NOT NULL,
    id VARCHAR(12) NOT NULL CHECK (length(id) = 12),
    sha256 VARCHAR(64) NOT NULL,
    owner VARCHAR(128) NOT NULL,
    created VARCHAR(32) NOT NULL,
    revoked VARCHAR(32),
    PRIMARY KEY (sequence),
    CONSTRAINT sha256_is_sha256 CHECK (length(sha256) = 64),
    UNIQUE (id),
    UNIQUE (sha256),
    FOREIGN KEY(owner) REFERENCES users (name)
);
CREATE INDEX ix_user_tokens_owner ON user_tokens (owner);
CREATE TABLE sign_ins (
    sha256 VARCHAR(64) NOT NULL,
    owner VARCHAR(128),
    created FLOAT NOT NULL,
    used FLOAT NOT NULL,
    PRIMARY KEY (sha256),
    CONSTRAINT sha256_is_sha256 CHECK (length(sha256) = 64),
    FOREIGN KEY(owner) REFERENCES users (name)
);
CREATE INDEX sign_ins_by_owner ON sign_ins (owner);
CREATE TABLE cookie_key (
    only INTEGER NOT NULL CHECK ("only" = 1),
    "key" VARCHAR(64) NOT NULL,
    PRIMARY KEY (only)
);
CREATE TABLE webhooks (
    id VARCHAR(12) NOT NULL CHECK (length(id) = 12),
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    secret VARCHAR(64) NOT NULL,
    private INTEGER NOT NULL CHECK (private IN (0, 1)),
    created VARCHAR(32) NOT NULL,
    removed VARCHAR(32),
    changes INTEGER NOT NULL CHECK (changes >= 1),
    PRIMARY KEY (id)
);
CREATE TABLE webhook_deliveries (
    sequence INTEGER NOT NULL,
    id VARCHAR(32) NOT NULL CHECK (length(id) = 32),
    webhook VARCHAR(12) NOT NULL,
    event VARCHAR(16) NOT NULL,
    body TEXT,
    state VARCHAR(9) NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    due FLOAT NOT NULL,
    answer INTEGER,
    error TEXT,
    created VARCHAR(32) NOT NULL,
    finished VARCHAR(32),
    PRIMARY KEY (sequence),
    CONSTRAINT kept_until_it_ends CHECK ((state = 'waiting') = (body IS NOT NULL)),
    UNIQUE (id),
    FOREIGN KEY(webhook) REFERENCES webhooks (id)
);
CREATE INDEX ix_webhook_deliveries_webhook ON webhook_deliveries (webhook);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (state, due);
CREATE TABLE access_events (
    sequence INTEGER NOT NULL,
    subject VARCHAR(160) NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    action VARCHAR(6) NOT NULL CHECK (action IN ('add', 'role', 'revoke')),
    state TEXT NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    at VARCHAR(32) NOT NULL,
    previous_digest VARCHAR(64) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    PRIMARY KEY (sequence),
    UNIQUE (subject, number),
    UNIQUE (digest)
);
