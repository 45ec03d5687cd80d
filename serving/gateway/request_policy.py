"""A client's request, read by the schema that the engines share, within the gateway's own bounds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from serving.gateway.config import Bounds
from serving.openai_api.errors import ApiError
from serving.openai_api.request import Limits
from serving.openai_api.request import read as read_request


@dataclass(frozen=True)
class GatewayRequest:
    """A request within bounds."""

    body: dict[str, Any]
    """As the engine gets it, without `model` and salt, which are not the client's to choose."""
    model: str
    chat: bool
    stream: bool
    wants_usage: bool
    """Whether the client asked for the tokens at the end of the stream."""
    size: int
    """Bytes of text in it, which are at least as many as its tokens but for the template's."""
    turns: int
    n: int
    max_tokens: int | None
    """Tokens that each of its answers may have; None: it does not say."""
    cap: int
    """Tokens that they may have at most."""
    conversation: str
    """Equal for requests of one conversation, as far as they show it."""


def limits_of(bounds: Bounds, lacking: frozenset[str]) -> Limits:
    """The schema's limits; `lacking`: fields that none of the gateway's engines does."""
    return Limits(bounds.depth, bounds.messages, bounds.max_tokens, bounds.n, lacking)


def read(raw: bytes, chat: bool, limits: Limits) -> GatewayRequest:
    """The request in `raw`. Raises `ApiError`, in OpenAI's words."""
    request = read_request(raw, chat, limits)
    if request.salt is not None:
        said = "'cache_salt' is not accepted here: each tenant has a salt of its own; leave it out"
        raise ApiError(said, "cache_salt", code="unsupported_parameter")
    messages = request.messages or ()
    texts = [message["content"] + message.get("name", "") for message in messages]
    texts += [(request.prompt or "") + request.more.get("suffix", "")]
    opening = next((message["content"] for message in messages if message["role"] == "user"), texts[0])
    return GatewayRequest(
        body=request.body(), model=request.model, chat=chat, stream=request.stream,
        wants_usage=request.wants_usage, size=sum(len(text.encode()) for text in texts),
        turns=max(1, len(messages)), n=request.n, max_tokens=request.max_tokens, cap=limits.max_tokens,
        conversation=hashlib.sha256((request.user or opening).encode()).hexdigest(),
    )  # fmt: skip
