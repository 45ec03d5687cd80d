CREATE INDEX artifacts_by_stage ON artifacts (stage, sequence);
CREATE INDEX artifacts_by_base ON artifacts (base_revision, sequence);
CREATE INDEX artifacts_by_quantization ON artifacts (quant_method, sequence);
ALTER TABLE leases ADD COLUMN holds TEXT;
ALTER TABLE gate_decisions ADD COLUMN signer VARCHAR(64);
ALTER TABLE gate_decisions ADD COLUMN signature TEXT CHECK ((signer IS NULL) = (signature IS NULL));
CREATE TABLE keys_2 (
    "key" VARCHAR(64) NOT NULL,
    artifact_id VARCHAR(64) NOT NULL,
    created VARCHAR(32) NOT NULL,
    PRIMARY KEY ("key", artifact_id),
    CONSTRAINT key_is_sha256 CHECK (length("key") = 64),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
INSERT INTO keys_2 SELECT "key", artifact_id, created FROM keys;
DROP TABLE keys;
ALTER TABLE keys_2 RENAME TO keys;
CREATE TABLE content_events (
    sequence INTEGER NOT NULL,
    artifact_id VARCHAR(64) NOT NULL,
    action VARCHAR(9) NOT NULL CHECK (action IN ('collected', 'restored')),
    bytes INTEGER NOT NULL,
    at VARCHAR(32) NOT NULL,
    PRIMARY KEY (sequence),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
CREATE INDEX content_events_by_artifact ON content_events (artifact_id, sequence);
CREATE TABLE channel_policies (
    sequence INTEGER NOT NULL,
    channel VARCHAR(129) NOT NULL,
    policy TEXT NOT NULL,
    digest VARCHAR(64) NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    reason TEXT NOT NULL CHECK (length(reason) > 0),
    at VARCHAR(32) NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE INDEX channel_policies_by_channel ON channel_policies (channel, sequence);
