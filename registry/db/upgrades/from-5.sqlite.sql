CREATE TABLE schedules (
    name VARCHAR(64) NOT NULL,
    definition TEXT NOT NULL,
    paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
    token VARCHAR(64),
    created VARCHAR(32) NOT NULL,
    removed VARCHAR(32),
    changes INTEGER NOT NULL CHECK (changes >= 1),
    PRIMARY KEY (name),
    CONSTRAINT token_is_sha256 CHECK (length(token) = 64)
);
CREATE TABLE schedule_events (
    sequence INTEGER NOT NULL,
    schedule VARCHAR(64) NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    action VARCHAR(6) NOT NULL CHECK (action IN ('add', 'change', 'pause', 'resume', 'rm')),
    state TEXT NOT NULL,
    who TEXT NOT NULL CHECK (length(who) > 0),
    at VARCHAR(32) NOT NULL,
    previous_digest VARCHAR(64) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    PRIMARY KEY (sequence),
    UNIQUE (schedule, number),
    UNIQUE (digest)
);
CREATE TABLE schedule_occasions (
    schedule VARCHAR(64) NOT NULL,
    id VARCHAR(32) NOT NULL,
    "trigger" VARCHAR(16) NOT NULL,
    why TEXT NOT NULL,
    due VARCHAR(32) NOT NULL,
    version INTEGER,
    PRIMARY KEY (schedule, id),
    FOREIGN KEY(schedule) REFERENCES schedules (name)
);
CREATE INDEX schedule_occasions_due ON schedule_occasions (schedule, due);
CREATE TABLE schedule_runs (
    sequence INTEGER NOT NULL,
    schedule VARCHAR(64) NOT NULL,
    occasion VARCHAR(32) NOT NULL,
    target VARCHAR(129) NOT NULL,
    channel VARCHAR(129) NOT NULL,
    state VARCHAR(9) NOT NULL CHECK (state IN ('waiting', 'running', 'promoted', 'passed', 'refused', 'failed', 'unchanged', 'skipped')),
    note TEXT NOT NULL,
    begins FLOAT NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    learned VARCHAR(64),
    base_key VARCHAR(64),
    source_rows INTEGER,
    host TEXT,
    started VARCHAR(32),
    finished VARCHAR(32),
    run VARCHAR(64),
    artifact_id VARCHAR(64),
    decision_id VARCHAR(64),
    seconds FLOAT,
    cost FLOAT,
    PRIMARY KEY (sequence),
    UNIQUE (schedule, occasion, target),
    FOREIGN KEY(schedule, occasion) REFERENCES schedule_occasions (schedule, id),
    CONSTRAINT what_is_over_says_when CHECK ((finished IS NULL) = (state IN ('waiting', 'running'))),
    FOREIGN KEY(artifact_id) REFERENCES artifacts (id),
    FOREIGN KEY(decision_id) REFERENCES gate_decisions (id)
);
CREATE INDEX schedule_runs_by_end ON schedule_runs (finished);
CREATE INDEX schedule_runs_by_state ON schedule_runs (schedule, state);
CREATE INDEX schedule_runs_by_target ON schedule_runs (schedule, target);
