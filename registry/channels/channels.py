"""Channels: names that point to an artifact, moved by compare-and-swap, with an append-only history."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, exc, insert, select, update

from registry import catalog, content, outbox
from registry.artifacts import Record
from registry.channels import decisions, policies
from registry.channels.policies import ChannelPolicy
from registry.channels.signing import Keys
from registry.db.engine import Database, now
from registry.db.tables import channel_events, channels
from registry.errors import Corrupt, InvalidArtifact, Moved, NotFound
from registry.event_log import EventLog

CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}/[a-z0-9][a-z0-9._-]{0,63}")
HISTORY = EventLog("history of channel", channel_events.c.channel, channel_events.c.generation)


class Channel(Record):
    """Where a channel points; `generation` grows by one with each move."""

    name: str
    artifact_id: str
    generation: int
    moved: datetime


@dataclass(frozen=True)
class Waiver:
    """Why a move needs no gate, and who says so."""

    reason: str
    who: str


class ChannelEvent(Record):
    """One move. `digest` covers the event and, through `previous_digest`, all before it."""

    channel: str
    generation: int
    action: Literal["move", "rollback"]
    artifact_id: str
    restores: int | None
    decision_id: str | None
    reason: str | None
    who: str | None
    at: datetime
    previous_digest: str
    digest: str


class Channels:
    """The channels of a registry."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database = database
        self._keys = keys

    def get(self, name: str) -> Channel | None:
        """The channel, or None when it never pointed anywhere."""
        with self._database.read() as connection:
            return _current(connection, name)

    def ls(self) -> list[Channel]:
        """All channels by name."""
        with self._database.read() as connection:
            return every(connection)

    def move(
        self,
        name: str,
        artifact_id: str,
        expected_generation: int,
        decision_id: str | None = None,
        waiver: Waiver | None = None,
        who: str | None = None,
    ) -> Channel:
        """Point the channel to `artifact_id` if its generation is still `expected_generation` (0: it is new).

        `who` moves it on a decision; a waiver names its own.

        Needs a signed, passing gate decision for this artifact against the channel's current one under the
        channel's policy, or a waiver. A channel without a policy takes over that of the first decision.
        Raises Moved when another process was faster, GateRequired, NotFound for an unknown artifact or
        decision, Corrupt for a changed or unsigned one, InvalidArtifact for a bad name or waiver.
        """
        check_name(name)
        _check_waiver(waiver)
        if who is not None:
            check_text("the name of whoever moves the channel", who)
        with self._database.write() as connection:
            current = _current(connection, name)
            catalog.existing(connection, artifact_id)
            content.require(connection, [artifact_id])
            if (current.generation if current else 0) != expected_generation:
                raise _lost(name, expected_generation, _standing(current))
            if waiver is None:
                self._pass_gate(connection, name, artifact_id, current, decision_id)
            reason, who = (waiver.reason, waiver.who) if waiver else (None, who)
            details = {"decision_id": decision_id, "reason": reason, "who": who}
            return _swap(connection, name, expected_generation, "move", artifact_id, **details)

    def _pass_gate(
        self,
        connection: Connection,
        name: str,
        artifact_id: str,
        current: Channel | None,
        decision: str | None,
    ) -> None:
        policy = policies.latest(connection, name)
        move = decisions.Move(
            f"channel {name} cannot move to artifact {artifact_id[:12]}",
            artifact_id,
            current=current.artifact_id if current else None,
            policy=policy.digest if policy else None,
        )
        passed = decisions.require(connection, self._keys, decision, move)
        if policy is None:
            reason = f"taken over from gate decision {passed.id[:12]}, the first to move the channel"
            policies.add(connection, name, passed.policy, who=f"key {str(passed.signer)[:12]}", reason=reason)

    def set_policy(self, name: str, policy: Mapping[str, Any], who: str, reason: str) -> ChannelPolicy:
        """Make `policy` what artifacts have to pass here from now on; the same again changes nothing.

        Raises InvalidArtifact for a bad channel name, an empty reason or name, or content that is not JSON.
        """
        check_name(name)
        _check_waiver(Waiver(reason, who))
        with self._database.write() as connection:
            return policies.add(connection, name, policy, who, reason)

    def policy(self, name: str) -> ChannelPolicy | None:
        """The channel's policy, or None where none was set; a channel need not have moved to have one."""
        with self._database.read() as connection:
            return policies.latest(connection, name)

    def policies(self, name: str) -> list[ChannelPolicy]:
        """Every policy that the channel had, oldest first."""
        with self._database.read() as connection:
            return policies.history(connection, name)

    def rollback(self, name: str, reason: str, who: str, expected_generation: int | None = None) -> Channel:
        """Point the channel to the artifact that it had before; again, to the one before that.

        Raises NotFound when there is no such channel or nothing before, Moved where it is no longer at the
        generation that is given.
        """
        _check_waiver(Waiver(reason, who))
        with self._database.write() as connection:
            current = _current(connection, name)
            if current is None:
                raise NotFound(f"channel {name!r} does not exist; `tuneline channels` lists those that do")
            if expected_generation not in (None, current.generation):
                raise _lost(name, expected_generation or 0, _standing(current))
            back_to = earlier(HISTORY.events(connection, name), current)
            content.require(connection, [back_to.artifact_id])
            details = {"restores": back_to.generation, "reason": reason, "who": who}
            return _swap(connection, name, current.generation, "rollback", back_to.artifact_id, **details)

    def history(self, name: str) -> list[ChannelEvent]:
        """All events, oldest first. Raises Corrupt when their digests show that one was changed or lost."""
        with self._database.read() as connection:
            rows = HISTORY.verified(connection, name)
            current = _current(connection, name)
        last = rows[-1] if rows else None
        HISTORY.check_end(name, last, current.generation if current else 0)
        if last is not None and current is not None and last.artifact_id != current.artifact_id:
            message = (
                f"history of channel {name}: ends with artifact {last.artifact_id[:12]}, the channel has "
            )
            raise Corrupt(f"{message}{current.artifact_id[:12]}; one of them was changed")
        return [ChannelEvent.model_validate(row._asdict()) for row in rows]


def every(connection: Connection) -> list[Channel]:
    """All channels by name."""
    return [_channel(row) for row in connection.execute(select(channels).order_by(channels.c.name))]


def _swap(
    connection: Connection,
    name: str,
    expected: int,
    action: Literal["move", "rollback"],
    artifact_id: str,
    **details: str | int | None,
) -> Channel:
    """The compare-and-swap, in one statement, and its event; the transaction makes them one."""
    at = now()
    new = {"artifact_id": artifact_id, "generation": expected + 1, "moved": at}
    if expected == 0:
        try:
            connection.execute(insert(channels), {"name": name, **new})
        except exc.IntegrityError as error:
            raise _lost(name, expected, "one that was made meanwhile") from error
    else:
        same = (channels.c.name == name) & (channels.c.generation == expected)
        if connection.execute(update(channels).where(same), new).rowcount != 1:
            raise _lost(name, expected, _standing(_current(connection, name)))
    unset = {"restores": None, "decision_id": None}
    event = {"action": action, "artifact_id": artifact_id, **unset, **details}
    HISTORY.append(connection, name, expected + 1, {"at": at, **event})
    payload = {"channel": name, "generation": expected + 1, **event}
    outbox.put(connection, "rollback" if action == "rollback" else "promotion", payload)
    return Channel(
        name=name, artifact_id=artifact_id, generation=expected + 1, moved=datetime.fromisoformat(at)
    )


def earlier(events: list[Row[Any]], current: Channel) -> Row[Any]:
    """The event whose artifact stood before the current one.

    A rollback restores a generation and all that was before it, so a second rollback goes further back
    and not forward again to what was rolled back from.
    """
    at = {event.generation: event for event in events}
    standing = current.generation
    while standing > 1:
        standing = at[standing].restores or standing
        if standing == 1:
            break
        standing = at[standing - 1].restores or standing - 1
        if at[standing].artifact_id != current.artifact_id:
            return at[standing]
    raise NotFound(
        f"channel {current.name} pointed to no other artifact before {current.artifact_id[:12]}, so there is "
        "nothing to go back to; promote another one instead"
    )


def _current(connection: Connection, name: str) -> Channel | None:
    row = connection.execute(select(channels).where(channels.c.name == name)).one_or_none()
    return None if row is None else _channel(row)


def _channel(row: Row[Any]) -> Channel:
    return Channel.model_validate(row._asdict())


def _standing(current: Channel | None) -> str:
    if current is None:
        return "no such channel"
    return f"generation {current.generation} (artifact {current.artifact_id[:12]})"


def _lost(name: str, expected: int, found: str) -> Moved:
    return Moved(
        f"channel {name}: expected generation {expected}, found {found}; it was moved meanwhile: "
        "look at its history, gate against its current artifact, and try again"
    )


def check_name(name: str) -> None:
    """Raise InvalidArtifact for what is not a valid channel name."""
    if not CHANNEL.fullmatch(name):
        raise InvalidArtifact(
            f"{name[:140]!r} is not a valid channel name; expected team/name of a-z, 0-9, '.', '_', '-'"
        )


def _check_waiver(waiver: Waiver | None) -> None:
    if waiver is not None and not (waiver.reason.strip() and waiver.who.strip()):
        raise InvalidArtifact("a waiver needs a reason and the name of whoever decides it; one is empty")
    if waiver is not None:
        check_text("the reason", waiver.reason)
        check_text("the name of whoever decides it", waiver.who)


def check_text(what: str, text: str) -> None:
    """Raise InvalidArtifact where `text` is empty, or holds what a database cannot keep."""
    character = next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if character is not None:
        raise InvalidArtifact(f"{what} holds {character!a}, which is not allowed in a text; write it without")
    if not text.strip():
        raise InvalidArtifact(f"{what} is empty")
