"""Rollouts: which candidate a channel tries out, on how much of its traffic; an append-only, chained log.

A rollout belongs to the generation of the channel at its start: once the channel moves, it is over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, insert, select, update

from registry import catalog, content
from registry.artifacts import MODEL_KINDS, Record
from registry.channels.channels import check_text
from registry.db.engine import Database, now
from registry.db.serving_tables import rollout_events, rollouts
from registry.db.tables import channels
from registry.errors import CanaryUnderWay, InvalidArtifact, NotFound
from registry.event_log import EventLog

LOG = EventLog("rollouts of channel", rollout_events.c.channel, rollout_events.c.number)


class Rollout(Record):
    """What of the requests to `channel` goes to `candidate` too, or instead.

    `canary_percent` (0..100) of the conversations are answered by it; `shadow_percent` (0..100) of the
    requests are also sent to it, and its answers are dropped.
    """

    channel: str
    generation: int
    candidate: str
    canary_percent: float
    shadow_percent: float
    who: str
    reason: str
    at: datetime
    sequence: int


class RolloutEvent(Rollout):
    """One start or stop (of `candidate`; its shares are then 0). `digest` covers it and all before it."""

    number: int
    action: Literal["start", "stop"]
    previous_digest: str
    digest: str


class Rollouts:
    """The rollouts of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self,
        channel: str,
        candidate: str,
        canary_percent: float,
        shadow_percent: float,
        who: str,
        reason: str,
        *,
        anew: bool = False,
    ) -> Rollout:
        """Try `candidate` (an artifact's id) out, in place of a shadow, or of other shares of the same.

        Raises CanaryUnderWay where a canary of another candidate is in force, with `anew` also where one of
        the same is: of two that start at once, the second. Raises NotFound for a channel that never moved or
        an unknown artifact, Collected for one without its files, InvalidArtifact for one that is not a model
        or is the channel's current one, for shares that are not from 0 to 100 or both 0, and for a bad reason
        or name.
        """
        shares = {"canary_percent": canary_percent, "shadow_percent": shadow_percent}
        for name, value in shares.items():
            if isinstance(value, bool) or not math.isfinite(value) or not 0 <= value <= 100:
                raise InvalidArtifact(f"{name.replace('_', ' ')} {value!r}: expected a number from 0 to 100")
        if not any(shares.values()):
            message = (
                "a rollout of 0 % sends no traffic to the candidate: give the canary or the shadow a share"
            )
            raise InvalidArtifact(message)
        _check_words(who, reason)
        with self._database.write() as connection:
            standing = _standing(connection, channel)
            kind = catalog.existing(connection, candidate).manifest.kind
            content.require(connection, [candidate])
            if kind not in MODEL_KINDS:
                raise InvalidArtifact(f"artifact {candidate[:12]} is a {kind}; only models can be rolled out")
            if candidate == standing.artifact_id:
                raise InvalidArtifact(
                    f"channel {channel} points to {candidate[:12]} already; choose another candidate"
                )
            running = in_force(connection).get(channel)
            if running and running.canary_percent and (anew or running.candidate != candidate):
                raise CanaryUnderWay(channel, running.candidate)
            event: dict[str, str | float] = {"candidate": candidate}
            event |= {name: float(value) for name, value in shares.items()}
            return _append(connection, standing, {**event, "action": "start", "who": who, "reason": reason})

    def stop(self, channel: str, who: str, reason: str) -> None:
        """End the rollout in force; raises NotFound if none is, InvalidArtifact for a bad reason or name."""
        _check_words(who, reason)
        with self._database.write() as connection:
            standing = _standing(connection, channel)
            running = in_force(connection).get(channel)
            if running is None:
                raise NotFound(f"channel {channel} has no rollout in progress")
            event = {"candidate": running.candidate, "action": "stop", "who": who, "reason": reason}
            _append(connection, standing, {**event, "canary_percent": 0.0, "shadow_percent": 0.0})

    def current(self, channel: str) -> Rollout | None:
        """The rollout in force, or None."""
        with self._database.read() as connection:
            return in_force(connection).get(channel)

    def history(self, channel: str) -> list[RolloutEvent]:
        """Every start and stop, oldest first. Raises Corrupt when one was changed or lost."""
        head = select(rollouts.c.number).where(rollouts.c.channel == channel)
        with self._database.read() as connection:
            rows = LOG.verified(connection, channel)
            expected = connection.execute(head).scalar_one_or_none() or 0
        LOG.check_end(channel, rows[-1] if rows else None, expected)
        return [RolloutEvent.model_validate(row._asdict()) for row in rows]


def in_force(connection: Connection) -> dict[str, Rollout]:
    """The rollouts in force, by channel."""
    return {row.channel: Rollout.of_row(row) for row in connection.execute(_latest())}


def _latest() -> Select[Any]:
    events = rollout_events.c
    query = select(rollout_events).join(
        rollouts, (rollouts.c.channel == events.channel) & (rollouts.c.number == events.number)
    )
    query = query.join(channels, channels.c.name == events.channel)
    return query.where((events.action == "start") & (events.generation == channels.c.generation))


def _append(connection: Connection, standing: Row[Any], event: Mapping[str, str | float]) -> Rollout:
    channel = standing.name
    mine = rollouts.c.channel == channel
    before = connection.execute(select(rollouts.c.number).where(mine)).scalar_one_or_none() or 0
    LOG.append(connection, channel, before + 1, {**event, "generation": standing.generation, "at": now()})
    head = {"number": before + 1}
    if before:
        connection.execute(update(rollouts).where(mine), head)
    else:
        connection.execute(insert(rollouts), {"channel": channel, **head})
    return Rollout.of_row(LOG.events(connection, channel)[-1])


def _standing(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(select(channels).where(channels.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(
            f"channel {name!r} points to no artifact yet; promote one first, since a rollout is compared "
            "with it"
        )
    return row


def _check_words(who: str, reason: str) -> None:
    check_text("the reason", reason)
    check_text("the name of whoever decides it", who)
