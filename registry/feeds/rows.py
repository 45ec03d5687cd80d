"""What a row of a feed is, and which ones are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from registry.artifacts import Record, canonical, digest
from registry.errors import InvalidFeed

LARGEST_ROW = 2**20
"""Bytes of a row's JSON."""
MOST_TURNS = 1000
Kind = Literal["chat", "preference"]
Origin = Literal["file", "http", "answer", "correction"]
_ROLES = ("system", "user", "assistant")
_MORE = {"tools", "tool_calls", "tool_call_id", "tool", "reasoning_content", "weight"}
"""What a row of a file may have in its messages, and no feed keeps."""


@dataclass(frozen=True)
class NewRow:
    """A row that may come; `key` (sha256, hex) names it: what came already does not come twice."""

    key: str
    content: str
    origin: Origin
    kind: Kind = "chat"
    place: str | None = None
    tenant: str | None = None
    request: str | None = None
    artifact_id: str | None = None
    expires: str | None = None


class Chat(TypedDict):
    """What a row of kind `chat` holds: turns of role and content, the last of which is the assistant's."""

    messages: list[dict[str, str]]


class FeedRow(Record):
    """A row as the feed has it; `content` is None once it is forgotten."""

    feed: str
    number: int
    kind: Kind
    origin: Origin
    place: str | None
    tenant: str | None
    request: str | None
    artifact_id: str | None
    who: str
    at: datetime
    expires: datetime | None
    content: dict[str, Any] | None
    forgotten: datetime | None


def chat(messages: object, where: str, origin: Origin, place: str | None = None) -> NewRow:
    """A row of a file or a request, named by its content. Raises InvalidFeed, which begins with `where`."""
    content = checked(messages, where)
    return NewRow(digest(["row", content]), canonical(content).decode(), origin, place=place)


def checked(messages: object, where: str) -> Chat:
    """The row's content: `messages`, of which the last is the assistant's. Raises InvalidFeed."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise InvalidFeed(f"{where}: expected messages, a list of {{role, content}}")
    if not 2 <= len(messages) <= MOST_TURNS:
        raise InvalidFeed(f"{where}: expected from 2 to {MOST_TURNS:,} messages, found {len(messages)}")
    turns = [_turn(message, f"{where}, message {number}") for number, message in enumerate(messages, 1)]
    if turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        raise InvalidFeed(f"{where}: the last message is not an answer from the assistant")
    if not any(turn["role"] == "user" for turn in turns):
        raise InvalidFeed(f"{where}: no message is from the user")
    content: Chat = {"messages": turns}
    try:
        size = len(canonical(content))
    except UnicodeEncodeError:
        raise InvalidFeed(
            f"{where}: it holds a lone surrogate (half a character); write the whole character"
        ) from None
    if size > LARGEST_ROW:
        raise InvalidFeed(f"{where}: {size:,} bytes; a row has at most {LARGEST_ROW:,}")
    if any("\0" in turn["content"] for turn in turns):
        raise InvalidFeed(f"{where}: it holds the character U+0000, which PostgreSQL cannot store; remove it")
    return content


def _turn(message: object, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        others = sorted(map(str, set(message) - {"role", "content"})) if isinstance(message, Mapping) else []
        found = f", found {', '.join(name[:40] for name in others[:4])}" if others else ""
        raise InvalidFeed(f"{where}: expected role and content, and nothing else{found}{_elsewhere(others)}")
    role, content = message["role"], message["content"]
    role = "system" if role == "developer" else role  # OpenAI's newer name
    if role not in _ROLES:
        roles = ", ".join(_ROLES)
        raise InvalidFeed(f"{where}: role {str(role)[:40]!r}; expected {roles}{_elsewhere([str(role)])}")
    if not isinstance(content, str):
        raise InvalidFeed(f"{where}: its content is a {type(content).__name__}; expected text")
    return {"role": role, "content": content}


def _elsewhere(found: Sequence[str]) -> str:
    """What to do with rows that a feed does not keep, and a recipe reads from a file."""
    if not _MORE.intersection(found):
        return ""
    return (
        "; a feed keeps plain chats: have recipes read rows with tools, calls or thoughts from a file "
        "(path:FILE)"
    )
