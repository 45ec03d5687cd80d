"""A client's request, read by the schema that the engines share, within the gateway's own bounds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from serving.gateway.config import Bounds
from serving.openai_api import request as openai_request
from serving.openai_api.errors import ApiError
from serving.openai_api.messages import texts_of
from serving.openai_api.request import CompletionRequest, RequestLimits


@dataclass(frozen=True, kw_only=True)
class GatewayRequest(CompletionRequest):
    """A request within bounds."""

    cap: int
    """Tokens that each of its answers may have at most."""

    @cached_property
    def size(self) -> int:
        """Bytes of text in it, which are at least as many as its tokens but for the template's."""
        texts = [text for message in self.messages or () for text in texts_of(message)]
        texts += [json.dumps(tool, ensure_ascii=False) for tool in self.tools.offered] if self.tools else []
        return sum(len(text.encode()) for text in (*texts, self.prompt or "", self.more.get("suffix", "")))

    @property
    def turns(self) -> int:
        return len(self.messages or ()) or 1

    @cached_property
    def conversation(self) -> str:
        """Equal for requests of one conversation, as far as they show it."""
        messages = self.messages or ()
        texts = [message["content"] for message in messages if message["role"] == "user"]
        texts += ["".join(texts_of(message)) for message in messages]
        opening = texts[0] if texts else (self.prompt or "") + self.more.get("suffix", "")
        return hashlib.sha256((self.user or opening).encode()).hexdigest()


def limits_of(bounds: Bounds, lacking: frozenset[str]) -> RequestLimits:
    """The schema's limits; `lacking`: fields that none of the gateway's engines does."""
    return RequestLimits(bounds.depth, bounds.messages, bounds.max_tokens, bounds.n, lacking)


def read(raw: bytes, chat: bool, limits: RequestLimits) -> GatewayRequest:
    """The request in `raw`. Raises `ApiError`, in OpenAI's words."""
    request = openai_request.read(raw, chat, limits)
    if request.salt is not None:
        message = "'cache_salt' is not accepted here: each tenant has a salt of its own; leave it out"
        raise ApiError(message, "cache_salt", code="unsupported_parameter")
    return GatewayRequest(**vars(request), cap=limits.max_tokens)
