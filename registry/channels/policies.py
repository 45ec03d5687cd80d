"""Channels' policies: what an artifact has to pass there; append-only, the latest counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from registry.artifacts import Record, canonical, digest
from registry.db.engine import now
from registry.db.tables import channel_policies
from registry.errors import Corrupt, InvalidArtifact


class ChannelPolicy(Record):
    """A policy and who gave it to the channel; `digest` is the sha256 of its canonical JSON."""

    channel: str
    policy: dict[str, Any]
    digest: str
    who: str
    reason: str
    at: datetime


def latest(connection: Connection, channel: str) -> ChannelPolicy | None:
    """The channel's policy. Raises Corrupt when it is not the one that was set."""
    query = _of(channel).order_by(channel_policies.c.sequence.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _policy(row)


def history(connection: Connection, channel: str) -> list[ChannelPolicy]:
    """Every policy the channel had, oldest first."""
    query = _of(channel).order_by(channel_policies.c.sequence)
    return [_policy(row) for row in connection.execute(query)]


def add(
    connection: Connection, channel: str, policy: Mapping[str, Any], who: str, reason: str
) -> ChannelPolicy:
    """Make `policy` the channel's; the one that it has already is not written again."""
    try:
        text = canonical(dict(policy)).decode()
    except (ValueError, TypeError) as error:
        raise InvalidArtifact(f"a channel's policy must be finite JSON: {error}") from error
    before = latest(connection, channel)
    if before is not None and before.digest == digest(json.loads(text)):
        return before
    row = {"channel": channel, "policy": text, "digest": digest(json.loads(text)), "who": who}
    connection.execute(insert(channel_policies), {**row, "reason": reason, "at": now()})
    added = latest(connection, channel)
    assert added is not None
    return added


def _of(channel: str) -> Any:
    return select(channel_policies).where(channel_policies.c.channel == channel)


def _policy(row: Row[Any]) -> ChannelPolicy:
    policy = json.loads(row.policy)
    if digest(policy) != row.digest:
        raise Corrupt(f"the policy of channel {row.channel} was changed after it was set: its digest differs")
    return ChannelPolicy.of_row(row, policy=policy, at=datetime.fromisoformat(row.at))
