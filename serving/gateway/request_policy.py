"""A client's request, read by the schema that the engines share, within the gateway's own bounds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from serving.gateway.config import Bounds
from serving.openai_api import embeddings
from serving.openai_api import request as openai_request
from serving.openai_api.embeddings import EmbeddingsRequest
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject
from serving.openai_api.messages import texts_of
from serving.openai_api.request import CompletionRequest, RequestLimits
from serving.openai_api.responses import request as response_request


@dataclass(frozen=True, kw_only=True)
class GatewayRequest(CompletionRequest):
    """A request within bounds."""

    cap: int
    """Tokens that each of its answers may have at most."""
    echo: JsonObject | None = None
    """What a response says again of its request; None of a completion."""

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
    return RequestLimits(bounds.depth, bounds.messages, bounds.max_tokens, bounds.n, lacking, bounds.inputs)


def read(raw: bytes, chat: bool, limits: RequestLimits) -> GatewayRequest:
    """The request in `raw`. Raises `ApiError`, in OpenAI's words."""
    return _of_tenant(openai_request.read(raw, chat, limits), limits, None)


def read_response(raw: bytes, limits: RequestLimits) -> GatewayRequest:
    """The request for a response in `raw`, as that of a chat. Raises `ApiError`, in OpenAI's words."""
    asked = response_request.read_response(raw, limits)
    return _of_tenant(asked.completion, limits, asked.echo)


def read_embeddings(raw: bytes, limits: RequestLimits) -> EmbeddingsRequest:
    """The request for embeddings in `raw`. Raises `ApiError`, in OpenAI's words."""
    if not limits.inputs:
        raise ApiError("no embeddings are given here (`bounds.inputs` is 0)", None, 404, "not_found")
    request = embeddings.read_embeddings(raw, limits)
    _require_no_salt(request.salt)
    return request


def _of_tenant(request: CompletionRequest, limits: RequestLimits, echo: JsonObject | None) -> GatewayRequest:
    _require_no_salt(request.salt)
    return GatewayRequest(**vars(request), cap=limits.max_tokens, echo=echo)


def _require_no_salt(salt: str | None) -> None:
    if salt is not None:
        message = "'cache_salt' is not accepted here: each tenant has a salt of its own; leave it out"
        raise ApiError(message, "cache_salt", code="unsupported_parameter")
