"""What gateways keep of requests of tenants that agreed, and what the tenants say of the answers.

A receipt says which artifact gave an answer, to which key; with it, of a sample, the redacted words. Feedback
comes once for a request, from the key that asked. An answer that was approved becomes a row of the tenant's
feed; a correction becomes one too, and a preference: the correction rather than the answer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict

from sqlalchemy import Connection, Row, delete, func, insert, select

from registry.artifacts import Record, canonical, digest
from registry.db.engine import Database, now
from registry.db.feed_tables import feedback, forgettings, receipts
from registry.db.serving_tables import tenant_keys
from registry.db.tables import channels
from registry.errors import AlreadyExists, InvalidFeed, InvalidTenant, NoConsent, NotFound
from registry.feeds.corrections import ControlTokensOf, check, held
from registry.feeds.feeds import append
from registry.feeds.rows import NewRow, Origin, checked
from registry.tenancy import outcomes, tenant_log
from registry.tenancy.consents import Consent, in_force
from registry.tenancy.redaction import redacted

LIKED = 0.5
"""A lower score says that the answer was not liked."""


@dataclass(frozen=True)
class Receipt:
    """An answer that was given; `messages` and `answer` are as they were said, None outside of the sample."""

    request: str
    key_id: str
    consent: Consent
    channel: str
    artifact_id: str
    arm: Literal["live", "canary"]
    at: datetime
    messages: list[dict[str, str]] | None = None
    answer: str | None = None


class Feedback(Record):
    """What a client says of an answer; `score` from 0 to 1."""

    request: str
    thumbs: Literal["up", "down"] | None = None
    score: float | None = None
    correction: str | None = None


class FeedbackSummary(Record):
    """How an artifact's answers fared with those who asked, in one arm of a channel."""

    artifact_id: str
    arm: Literal["live", "canary"]
    up: int
    down: int
    corrected: int
    scores: list[float]


class _Whose(TypedDict):
    tenant: str
    request: str
    artifact_id: str
    expires: str


class KeptAnswer(Record):
    """A live answer whose words are still kept, redacted as its tenant asked."""

    request: str
    at: datetime
    text: str


class Rating(Record):
    """What was said of one live answer, and when; holds no words."""

    request: str
    at: datetime
    disliked: bool


class Traffic:
    """Receipts and feedback of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, given: Sequence[Receipt]) -> None:
        """Write receipts down, all or none, redacted; takes the time that redaction takes.

        One of a consent that is not in force any more is left out, and one of a tenant that was forgotten
        since the answer.
        """
        rows = [_row(receipt) for receipt in given]
        with self._database.write() as connection:
            standing, forgotten = in_force(connection), _forgotten(connection)
            wanted = [
                row
                for row, receipt in zip(rows, given, strict=True)
                if standing.get(receipt.consent.tenant) == receipt.consent
                and _text(receipt.at) > forgotten.get(receipt.consent.tenant, "")
            ]
            connection.execute(delete(receipts).where(receipts.c.expires <= now()))
            if wanted:
                connection.execute(insert(receipts), wanted)

    def give(self, key_id: str, remark: Feedback, control: ControlTokensOf = lambda _: ()) -> int:
        """Keep what a client says of an answer; returns how many rows came of it.

        Of a question or answer with a token of `control` no row comes.

        Raises InvalidTenant for a key that ended, NotFound for a request that is not this key's (or whose
        receipt is over), NoConsent where the consent was withdrawn, AlreadyExists for a second time,
        InvalidFeed for a correction that makes no row, or holds what it may not (`corrections`).
        """
        with self._database.write() as connection:
            _require_live(connection, key_id)
            receipt = _receipt(connection, key_id, remark.request)
            consent = in_force(connection).get(receipt.tenant)
            if consent is None:
                raise NoConsent("the tenant has withdrawn its consent; nothing is kept")
            query = select(feedback.c.request).where(feedback.c.request == remark.request)
            if connection.execute(query).first() is not None:
                raise AlreadyExists(
                    f"request {remark.request} already has feedback, which can be given only once"
                )
            row = {name: getattr(receipt, name) for name in _SHARED}
            row |= {"thumbs": remark.thumbs, "score": remark.score, "at": now()}
            connection.execute(insert(feedback), {**row, "corrected": int(remark.correction is not None)})
            rows = _learned(receipt, consent, remark, control(receipt.artifact_id))
            who = f"tenant {receipt.tenant}, key {key_id}"
            new_rows = append(connection, receipt.feed, rows, who).new if rows else 0
            rating = _rating(connection, receipt, remark)
            if rating is not None:  # at the end: gateways that count wait from here on
                outcomes.Outcomes(self._database).add([rating], connection)
        return new_rows

    def outcomes(self, channel: str, since: datetime | None = None) -> list[FeedbackSummary]:
        """What was said of a channel's answers, by artifact and arm, in the order in which they came."""
        query = select(feedback).where(feedback.c.channel == channel).order_by(feedback.c.at)
        if since is not None:
            query = query.where(feedback.c.at >= _text(since.astimezone(UTC)))
        by_artifact: dict[tuple[str, Any], list[Row[Any]]] = {}
        with self._database.read() as connection:
            for row in connection.execute(query):
                by_artifact.setdefault((row.artifact_id, row.arm), []).append(row)
        return [
            FeedbackSummary(
                artifact_id=artifact_id,
                arm=arm,
                up=sum(row.thumbs == "up" for row in rows),
                down=sum(row.thumbs == "down" for row in rows),
                corrected=sum(row.corrected for row in rows),
                scores=[row.score for row in rows if row.score is not None],
            )
            for (artifact_id, arm), rows in by_artifact.items()
        ]

    def answers(self, channel: str) -> list[KeptAnswer]:
        """Those of the channel that are still kept, oldest first."""
        mine = (receipts.c.channel == channel) & (receipts.c.arm == "live") & (receipts.c.expires > now())
        query = select(receipts).where(mine, receipts.c.answer.is_not(None))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(receipts.c.at, receipts.c.request))
            return [KeptAnswer(request=row.request, at=row.at, text=row.answer) for row in rows]

    def ratings(self, channel: str) -> list[Rating]:
        """Of the channel's live answers, in the order in which they were given."""
        query = select(feedback).where(feedback.c.channel == channel, feedback.c.arm == "live")
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(feedback.c.at, feedback.c.request))
            judged = [(row, _disliked(row.thumbs, row.score, bool(row.corrected))) for row in rows]
        return [Rating(request=row.request, at=row.at, disliked=disliked) for row, disliked in judged]


_SHARED = ("request", "tenant", "key_id", "channel", "artifact_id", "arm")


def _row(receipt: Receipt) -> dict[str, str | None]:
    consent, words = receipt.consent, _words(receipt)
    return {
        **{name: getattr(receipt, name) for name in _SHARED if name != "tenant"},
        "tenant": consent.tenant,
        "feed": consent.feed,
        "at": _text(receipt.at),
        "expires": _text(receipt.at + timedelta(days=consent.days)),
        "messages": canonical(words[:-1]).decode() if words else None,
        "answer": words[-1]["content"] if words else None,
    }


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


def _words(receipt: Receipt) -> list[dict[str, str]]:
    """What was said, redacted, the answer last; none outside of the sample, or where it can be no row."""
    if receipt.messages is None or receipt.answer is None:
        return []
    turns = [*receipt.messages, {"role": "assistant", "content": receipt.answer}]
    clean = [{**turn, "content": redacted(turn["content"], receipt.consent.redact)} for turn in turns]
    try:
        checked(clean, f"request {receipt.request}")
    except InvalidFeed:
        return []
    return clean


def _forgotten(connection: Connection) -> dict[str, str]:
    """Tenant → when it was forgotten last."""
    query = select(forgettings.c.tenant, func.max(forgettings.c.at).label("at")).where(
        forgettings.c.tenant.is_not(None)
    )
    rows = connection.execute(query.group_by(forgettings.c.tenant))
    return {row.tenant: row.at for row in rows}


def _require_live(connection: Connection, key_id: str) -> None:
    query = tenant_log.live_keys(now()).where(tenant_keys.c.id == key_id)
    if connection.execute(query).first() is None:
        raise InvalidTenant("this key has expired or was revoked")


def _receipt(connection: Connection, key_id: str, request: str) -> Row[Any]:
    mine = (receipts.c.request == request) & (receipts.c.key_id == key_id) & (receipts.c.expires > now())
    row = connection.execute(select(receipts).where(mine)).one_or_none()
    if row is None:
        raise NotFound("no such request of this key that still takes feedback")
    return row


def _rating(connection: Connection, receipt: Row[Any], remark: Feedback) -> outcomes.Outcome | None:
    """As canaries count it: of the minute of the answer, under the generation that the channel has now.

    None of a channel that is gone.
    """
    query = select(channels.c.generation).where(channels.c.name == receipt.channel)
    generation = connection.execute(query).scalar_one_or_none()
    if generation is None:
        return None
    return outcomes.Outcome(
        **{name: getattr(receipt, name) for name in ("channel", "artifact_id", "arm")},
        generation=generation,
        minute=datetime.fromisoformat(receipt.at),
        requests=0,
        rated=1,
        disliked=int(_disliked(remark.thumbs, remark.score, remark.correction is not None)),
    )


def _disliked(thumbs: str | None, score: float | None, corrected: bool) -> bool:
    return thumbs == "down" or corrected or (score is not None and score < LIKED)


def _learned(receipt: Row[Any], consent: Consent, remark: Feedback, control: Collection[str]) -> list[NewRow]:
    """The rows that come of the feedback: none where no words were kept, or none that can be trained on."""
    asked = json.loads(receipt.messages or "[]")
    said = [receipt.answer or "", *(message["content"] for message in asked)]
    check(remark.correction or "", said, control)
    if receipt.messages is None or held(control, *said):
        return []
    if remark.correction is None:
        return [_chat(receipt, "answer", asked, receipt.answer)] if remark.thumbs == "up" else []
    corrected = redacted(remark.correction, consent.redact)
    rows = [_chat(receipt, "correction", asked, corrected)]
    if corrected != receipt.answer:
        pair = {"messages": asked, "chosen": corrected, "rejected": receipt.answer}
        text = canonical(pair).decode()
        rows.append(NewRow(_key(receipt, "preference"), text, "correction", "preference", **_whose(receipt)))
    return rows


def _chat(receipt: Row[Any], origin: Origin, asked: list[dict[str, str]], answer: str) -> NewRow:
    content = checked([*asked, {"role": "assistant", "content": answer}], f"request {receipt.request}")
    return NewRow(_key(receipt, origin), canonical(content).decode(), origin, **_whose(receipt))


def _key(receipt: Row[Any], what: str) -> str:
    return digest(["request", receipt.request, what])


def _whose(receipt: Row[Any]) -> _Whose:
    return {
        "tenant": receipt.tenant,
        "request": receipt.request,
        "artifact_id": receipt.artifact_id,
        "expires": receipt.expires,
    }
