"""Live outcomes: how the answers of a channel's artifacts fared, as counts and durations, for the gate.

No prompt, no answer, and nothing that says who asked. Rows are added and never changed; old ones can be
pruned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator
from sqlalchemy import Connection, Row, delete, func, insert, select

from registry.artifacts import Digest, Record
from registry.channels.channels import check_name
from registry.db.engine import Database
from registry.db.serving_tables import outcomes

MOST_DURATIONS = 256
Arm = Literal["live", "canary", "shadow"]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Durations = Annotated[
    list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(max_length=MOST_DURATIONS)
]


def _whole_minute(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(second=0, microsecond=0)


class Outcome(Record):
    """What a gateway saw of one artifact in one arm of a channel, within one minute (UTC).

    `failed` and `truncated` (ended by the length limit) are of `requests`. `compared` counts shadow answers
    that were compared with the live answer to the same request, `agreed` those that were equal. Durations are
    in ms, of whole answers and to the first token, at most 256 of each. `checked` answers were looked at for
    JSON (while a canary is under way); `rated` ones got feedback, which is counted apart, when it comes.
    """

    channel: str
    generation: int = Field(ge=1)
    artifact_id: Digest
    arm: Arm
    minute: Annotated[AwareDatetime, AfterValidator(_whole_minute)]
    requests: Count
    failed: Count = 0
    truncated: Count = 0
    prompt_tokens: int = Field(default=0, ge=0, lt=2**63)
    completion_tokens: int = Field(default=0, ge=0, lt=2**63)
    compared: Count = 0
    agreed: Count = 0
    latencies_ms: Durations = Field(default_factory=list)
    first_token_ms: Durations = Field(default_factory=list)
    checked: Count = 0
    not_json: Count = 0
    rated: Count = 0
    disliked: Count = 0

    @model_validator(mode="after")
    def _parts_within_their_whole(self) -> Self:
        if max(self.failed, self.truncated, self.checked) > self.requests or self.agreed > self.compared:
            raise ValueError("failed, truncated and checked are of the requests, agreed of the compared ones")
        if self.not_json > self.checked or self.disliked > self.rated:
            raise ValueError("not_json is of the checked answers, disliked of the rated ones")
        return self


class OutcomeSummary(Record):
    """All outcomes of one artifact in one arm together; durations in ms, None where none was measured."""

    artifact_id: str
    arm: Arm
    first: datetime
    last: datetime
    requests: int
    failed: int
    truncated: int
    prompt_tokens: int
    completion_tokens: int
    compared: int
    agreed: int
    durations: int
    """How many whole answers were timed; the percentiles are of these."""
    p50_ms: float | None
    p95_ms: float | None
    first_token_p50_ms: float | None
    first_token_p95_ms: float | None


class Outcomes:
    """The live outcomes of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Sequence[Outcome], within: Connection | None = None) -> None:
        """Append the rows, all or none, without waiting for the disk, or as a part of a writing transaction
        (`Database.count`).

        Raises InvalidArtifact for a bad name of a channel, or an artifact that is not here.
        """
        for row in rows:
            check_name(row.channel)
        if rows:
            with self._database.count(within) as connection:
                connection.execute(insert(outcomes), [_columns(row) for row in rows])

    def read(self, channel: str, since: datetime | None = None, artifact: str | None = None) -> list[Outcome]:
        """The channel's rows, oldest first: from the minute of `since` on, of the artifact of this id."""
        query = select(outcomes).where(outcomes.c.channel == channel)
        if since is not None:
            query = query.where(outcomes.c.minute >= _text(since))
        if artifact is not None:
            query = query.where(outcomes.c.artifact_id == artifact)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(outcomes.c.minute, outcomes.c.sequence))
            return [_outcome(row) for row in rows]

    def added(
        self, channel: str, generation: int, after: int = 0, since: datetime | None = None
    ) -> list[tuple[int, Outcome]]:
        """The rows of one generation of the channel that were added after that number, each with its own.

        For who reads on from where it stopped; `since`: from the minute of that time on.
        """
        columns = outcomes.c
        query = select(outcomes).where(columns.channel == channel, columns.generation == generation)
        query = query.where(columns.sequence > after)
        if since is not None:
            query = query.where(columns.minute >= _text(since))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(columns.sequence))
            return [(row.sequence, _outcome(row)) for row in rows]

    def summary(self, channel: str, since: datetime | None = None) -> list[OutcomeSummary]:
        """The channel's outcomes per artifact and arm, in the order in which these first came."""
        parts: dict[tuple[str, Arm], list[Outcome]] = {}
        for row in self.read(channel, since):
            parts.setdefault((row.artifact_id, row.arm), []).append(row)
        return [_summary(rows) for rows in parts.values()]

    def prune(self, before: datetime, channel: str | None = None) -> int:
        """Forget the rows of minutes before that one, of one channel or of all; returns how many.

        The newest row of all stays: SQLite would give its number away again, and who reads on from that
        number (`added`) would miss the rows that come next.
        """
        newest = select(func.max(outcomes.c.sequence)).scalar_subquery()
        old = (outcomes.c.minute < _text(before)) & (outcomes.c.sequence < newest)
        if channel is not None:
            old &= outcomes.c.channel == channel
        with self._database.write() as connection:
            return connection.execute(delete(outcomes).where(old)).rowcount


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that at least `share` (0..1) of the values do not exceed; None of no values."""
    ordered = sorted(values)
    rank = max(1, -int(-share * len(ordered) // 1))
    return ordered[rank - 1] if ordered else None


def _summary(rows: Sequence[Outcome]) -> OutcomeSummary:
    counts = ("requests", "failed", "truncated", "compared", "agreed", "prompt_tokens", "completion_tokens")
    whole = [value for row in rows for value in row.latencies_ms]
    first = [value for row in rows for value in row.first_token_ms]
    return OutcomeSummary(
        artifact_id=rows[0].artifact_id,
        arm=rows[0].arm,
        first=rows[0].minute,
        last=rows[-1].minute + timedelta(minutes=1),
        **{name: sum(getattr(row, name) for row in rows) for name in counts},
        durations=len(whole),
        p50_ms=percentile(whole, 0.5),
        p95_ms=percentile(whole, 0.95),
        first_token_p50_ms=percentile(first, 0.5),
        first_token_p95_ms=percentile(first, 0.95),
    )


def _text(at: datetime) -> str:
    return _whole_minute(at).isoformat(timespec="minutes")


def _columns(row: Outcome) -> dict[str, object]:
    return {
        **row.model_dump(exclude={"minute", "latencies_ms", "first_token_ms"}),
        "minute": _text(row.minute),
        "latencies_ms": json.dumps(row.latencies_ms),
        "first_token_ms": json.dumps(row.first_token_ms),
    }


def _outcome(row: Row[Any]) -> Outcome:
    latencies, first = json.loads(row.latencies_ms), json.loads(row.first_token_ms)
    return Outcome.of_row(row, latencies_ms=latencies, first_token_ms=first)
