"""Bytes from an engine to a client, as they are, with what they cost counted on the way."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from serving.gateway.request_policy import GatewayRequest
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject
from serving.openai_api.responses.stream import ResponseStream

_END = b"\n\n"
LONGEST_REASON = 500
"""Characters."""
_CODE = re.compile(r"[a-z_]{1,40}")
"""What an engine may call its reason; it is written down, unlike its message."""
_CODES = {404: "model_not_found", 429: "overloaded"}


@dataclass
class TokenUsage:
    """What is known of an answer so far. Times are those of `time.monotonic`, in seconds."""

    request: GatewayRequest
    keep_text: bool = False
    begun: bool = False
    """Whether an engine was given it, and neither refused it nor died before it answered."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    pieces: int = 0
    """Events of a stream that had text, each of which stands for a token or more."""
    first: float | None = None
    last: float | None = None
    reason: str | None = None
    """Why the answer ended; None until it has."""
    thought: bool = False
    """Whether it came with a thought."""
    failed: bool = False
    texts: list[str] = field(default_factory=list)
    """With `keep_text`, the answer."""

    def used(self, prompt_bound: int, reserved: int) -> int:
        """The tokens to charge: as the engine counted them, else what has been worked on.

        Nobody knows how far an answer had come that was not streamed: all that it could take is charged.
        """
        if self.prompt_tokens is not None and self.completion_tokens is not None:
            return self.prompt_tokens + self.completion_tokens
        if not self.begun:
            return 0
        return min(reserved, prompt_bound + self.pieces) if self.request.stream else reserved

    @property
    def is_json(self) -> bool:
        """Of an answer that was kept: whether it is one JSON document. Infinity and NaN are none."""
        try:
            json.loads("".join(self.texts), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return True

    def whole(self, body: bytes) -> None:
        """Read an answer that came in one piece."""
        self.first = self.last = time.monotonic()
        try:
            answer = json.loads(body)
            self._count(answer.get("usage"))
            for choice in answer["choices"]:
                self._note(choice, choice.get("message") or choice)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.failed = True

    def event(self, data: bytes) -> bool:
        """Read one event of a stream; returns whether the client is to have it."""
        if data == b"[DONE]":
            return True
        try:
            part = json.loads(data)
            if "error" in part:
                self.failed = True
                return True
            self._count(part.get("usage"))
            choices = part.get("choices") or []
            for choice in choices:
                self._note(choice, choice.get("delta") or choice)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.failed = True
            return True
        return bool(choices) or self.request.wants_usage

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.prompt_tokens = int(usage["prompt_tokens"])
            self.completion_tokens = int(usage.get("completion_tokens") or 0)

    def _note(self, choice: JsonObject, holder: JsonObject) -> None:
        text = holder.get("content") or holder.get("text") or ""
        self.thought = self.thought or bool(holder.get("reasoning_content"))
        if text or holder.get("tool_calls") or holder.get("reasoning_content"):
            self.pieces += 1
            self.last = time.monotonic()
            self.first = self.first or self.last
            if self.keep_text:
                self.texts.append(str(text))
        self.reason = choice.get("finish_reason") or self.reason


class Events:
    """Cuts a stream into its events; what the client did not ask for is left out.

    With `response`, the client gets that one's events in their place.
    """

    def __init__(self, usage: TokenUsage, response: ResponseStream | None = None) -> None:
        self._usage, self._response = usage, response
        self._rest = b""
        self.done = False

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far, and not yet passed on, is for the client."""
        *events, self._rest = (self._rest + chunk).split(_END)
        return b"".join(map(self._passed, events))

    def end(self) -> bytes:
        """What is left when the engine closed the stream."""
        self._usage.failed = self._usage.failed or not self.done
        if self._response is None:
            return self._rest
        return b"" if self.done else self.broken()

    def broken(self) -> bytes:
        """What tells the client that there will be no more."""
        body = ApiError("the engine ended in the middle of the answer", None, 503, "unavailable").body
        if self._response is not None:
            return self._response.failed(body["error"])
        return b"data: " + json.dumps(body).encode() + _END

    def _passed(self, event: bytes) -> bytes:
        """What the client gets of one event."""
        if not event.startswith(b"data:"):
            return event + _END if self._response is None else b""
        data = event[5:].strip()
        self.done = self.done or data == b"[DONE]"
        wanted = self._usage.event(data)
        if self._response is not None:
            return self._response.event(data)
        return event + _END if wanted else b""


async def opening(answer: aiohttp.ClientResponse, stream: bool) -> tuple[int, bytes]:
    """Its status and its body; of a stream the first bytes, unless it is refused.

    vLLM looks at some values only after it has answered 200, and tells of them in the stream's first event.
    """
    if answer.status != 200 or not stream:
        return answer.status, await answer.read()
    first = await answer.content.readany()
    if not first.startswith(b'data: {"error"'):
        return 200, first
    status, event = 500, first[6:].partition(_END)[0]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        status = int(json.loads(event)["error"]["code"])
    return (status if 400 <= status < 600 else 500), event


def refusal(body: bytes, status: int) -> ApiError:
    """An engine's refusal in OpenAI's shape, which vLLM's is not: its codes are numbers.

    Where there is none, or a server's own list of what did not fit its types, only that it was refused.
    """
    error: Any = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = json.loads(body)["error"]
    error = error if isinstance(error, dict) else {}
    message, param, code = (error.get(name) for name in ("message", "param", "code"))
    if not isinstance(message, str) or not message or "validation error" in message:
        message = "the engine does not take this request"
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        long = "maximum context length" in message
        code = "context_length_exceeded" if long else _CODES.get(status, "invalid_value")
    return ApiError(message[:LONGEST_REASON], param if isinstance(param, str) else None, status, code)


@contextlib.contextmanager
def to_client() -> Iterator[None]:
    """Around writing: aiohttp says with the same exception that the client hung up and that an engine did."""
    try:
        yield
    except aiohttp.ClientError as error:
        raise ConnectionResetError(str(error)) from None


def _refuse(name: str) -> float:
    raise ValueError(name)
