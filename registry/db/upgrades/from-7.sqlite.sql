-- What canaries are judged by besides: answers looked at for JSON, and answers that somebody rated.
-- SQLite puts an added column behind the table's constraints, so the table is made anew; no row's number changes.
CREATE TABLE outcomes_8 (
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
    checked INTEGER DEFAULT 0 NOT NULL CHECK (checked BETWEEN 0 AND requests),
    not_json INTEGER DEFAULT 0 NOT NULL CHECK (not_json BETWEEN 0 AND checked),
    rated INTEGER DEFAULT 0 NOT NULL CHECK (rated >= 0),
    disliked INTEGER DEFAULT 0 NOT NULL CHECK (disliked BETWEEN 0 AND rated),
    PRIMARY KEY (sequence),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id)
);
INSERT INTO outcomes_8 SELECT *, 0, 0, 0, 0 FROM outcomes;
DROP TABLE outcomes;
ALTER TABLE outcomes_8 RENAME TO outcomes;
CREATE INDEX outcomes_by_channel ON outcomes (channel, minute);
