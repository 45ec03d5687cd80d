CREATE TABLE deletions (
    sha256 VARCHAR(64) NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    pid_started FLOAT NOT NULL,
    expires FLOAT NOT NULL,
    PRIMARY KEY (sha256)
);
CREATE TABLE serving_version (
    "only" INTEGER NOT NULL CHECK ("only" = 1),
    version INTEGER NOT NULL,
    PRIMARY KEY ("only")
);
INSERT INTO serving_version ("only", version) VALUES (1, 0);
CREATE TABLE tenants (
    name VARCHAR(64) NOT NULL,
    channel VARCHAR(129) NOT NULL,
    requests_per_minute INTEGER CHECK (requests_per_minute >= 1),
    concurrency INTEGER CHECK (concurrency >= 1),
    tokens_per_day INTEGER CHECK (tokens_per_day >= 1),
    pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
    salt VARCHAR(32) NOT NULL CHECK (length(salt) = 32),
    created VARCHAR(32) NOT NULL,
    changes INTEGER NOT NULL CHECK (changes >= 1),
    PRIMARY KEY (name),
    UNIQUE (salt)
);
CREATE TABLE tenant_keys (
    sequence INTEGER NOT NULL,
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
);
CREATE INDEX ix_tenant_keys_tenant ON tenant_keys (tenant);
CREATE TABLE tenant_events (
    sequence INTEGER NOT NULL,
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
);
CREATE TABLE rollouts (
    channel VARCHAR(129) NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    PRIMARY KEY (channel),
    FOREIGN KEY(channel) REFERENCES channels (name)
);
CREATE TABLE rollout_events (
    sequence INTEGER NOT NULL,
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
);
CREATE TABLE gateways (
    id VARCHAR(16) NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    pid_started FLOAT NOT NULL,
    beat FLOAT NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE budgets (
    day VARCHAR(10) NOT NULL CHECK (length(day) = 10),
    tenant VARCHAR(64) NOT NULL,
    used INTEGER NOT NULL CHECK (used >= 0),
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    PRIMARY KEY (day, tenant),
    FOREIGN KEY(tenant) REFERENCES tenants (name)
);
CREATE TABLE reservations (
    id VARCHAR(32) NOT NULL CHECK (length(id) = 32),
    gateway VARCHAR(16) NOT NULL,
    day VARCHAR(10) NOT NULL,
    tenant VARCHAR(64) NOT NULL,
    tokens INTEGER NOT NULL CHECK (tokens >= 0),
    PRIMARY KEY (id),
    FOREIGN KEY(gateway) REFERENCES gateways (id)
);
CREATE INDEX ix_reservations_gateway ON reservations (gateway);
CREATE TABLE outcomes (
    sequence INTEGER NOT NULL,
    channel VARCHAR(129) NOT NULL,
    generation INTEGER NOT NULL CHECK (generation >= 1),
    artifact_id VARCHAR(64) NOT NULL,
    arm VARCHAR(6) NOT NULL CHECK (arm IN ('live', 'canary', 'shadow')),
    minute VARCHAR(32) NOT NULL,
    requests INTEGER NOT NULL CHECK (requests >= 0),
    failed INTEGER NOT NULL CHECK (failed BETWEEN 0 AND requests),
    truncated INTEGER NOT NULL CHECK (truncated BETWEEN 0 AND requests),
    prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),
    completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),
    compared INTEGER NOT NULL CHECK (compared >= 0),
    agreed INTEGER NOT NULL CHECK (agreed BETWEEN 0 AND compared),
    latencies_ms TEXT NOT NULL,
    first_token_ms TEXT NOT NULL,
    PRIMARY KEY (sequence),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE INDEX outcomes_by_channel ON outcomes (channel, minute);
