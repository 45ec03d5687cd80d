"""The tables of schedules: what is to be retrained and when, each occasion for it, and what came of it."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)

from registry.db.access_tables import metadata
from registry.db.tables import chain, sha256_hex, string

schedules = Table(
    "schedules",
    metadata,
    Column("name", string(64), primary_key=True),
    Column("definition", Text, nullable=False, comment="JSON"),
    Column("paused", Integer, CheckConstraint("paused IN (0, 1)"), nullable=False),
    Column("token", string(64), comment="sha256 of what a webhook trigger asks for; null: there is none"),
    Column("created", string(32), nullable=False),
    Column("removed", string(32)),
    Column("changes", Integer, CheckConstraint("changes >= 1"), nullable=False),
    sha256_hex("token"),
    comment="as schedule_events left each; changes is the number of its latest event, its version",
)

schedule_events = Table(
    "schedule_events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("schedule", string(64), nullable=False),
    Column("number", Integer, CheckConstraint("number >= 1"), nullable=False),
    Column(
        "action",
        string(6),
        CheckConstraint("action IN ('add', 'change', 'pause', 'resume', 'rm')"),
        nullable=False,
    ),
    Column("state", Text, nullable=False, comment="JSON of the schedule, after the event"),
    Column("who", Text, CheckConstraint("length(who) > 0"), nullable=False),
    *chain(),
    UniqueConstraint("schedule", "number"),
)

schedule_occasions = Table(
    "schedule_occasions",
    metadata,
    Column("schedule", string(64), ForeignKey("schedules.name"), primary_key=True),
    Column("id", string(32), primary_key=True, comment="when it was due, or random for what was asked for"),
    Column("trigger", string(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("due", string(32), nullable=False),
    Column("version", Integer, comment="of the schedule that its runs are of; null until it has them"),
    comment="written once, whoever notices it first",
)
Index("schedule_occasions_due", schedule_occasions.c.schedule, schedule_occasions.c.due)

schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("schedule", string(64), nullable=False),
    Column("occasion", string(32), nullable=False),
    Column("target", string(129), nullable=False, comment="a tenant, or a channel"),
    Column("channel", string(129), nullable=False),
    Column(
        "state",
        string(9),
        CheckConstraint(
            "state IN ('waiting', 'running', 'promoted', 'passed', 'refused', 'failed', "
            "'unchanged', 'skipped')"
        ),
        nullable=False,
    ),
    Column("note", Text, nullable=False, comment="why it is as it is"),
    Column("begins", Float, nullable=False, comment="not before; seconds since the epoch"),
    Column("attempts", Integer, CheckConstraint("attempts >= 0"), nullable=False),
    Column("learned", string(64), comment="sha256 of all that the result depends on outside the toolchain"),
    Column("base_key", string(64), comment="memo key of the base that it would be trained on"),
    Column("source_rows", Integer, comment="of its data, when it was decided to run"),
    Column("host", Text),
    Column("started", string(32)),
    Column("finished", string(32)),
    Column("run", string(64), comment="id of the run in the home of that host"),
    Column("artifact_id", string(64), ForeignKey("artifacts.id"), comment="the candidate"),
    Column("decision_id", string(64), ForeignKey("gate_decisions.id")),
    Column("seconds", Float, comment="of its stages"),
    Column("cost", Float, comment="by the rates of that host; null where it has none"),
    UniqueConstraint("schedule", "occasion", "target"),
    ForeignKeyConstraint(["schedule", "occasion"], ["schedule_occasions.schedule", "schedule_occasions.id"]),
    CheckConstraint("(finished IS NULL) = (state IN ('waiting', 'running'))", name="what_is_over_says_when"),
)
Index("schedule_runs_by_state", schedule_runs.c.schedule, schedule_runs.c.state)
Index("schedule_runs_by_target", schedule_runs.c.schedule, schedule_runs.c.target)
Index("schedule_runs_by_end", schedule_runs.c.finished)
