"""One answer on its way from the engine's thread to one client, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Literal

from serving.errors import Overloaded, ServingError, UnknownModel
from serving.llama_cpp.detokenizer import Text
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Answer, Event, Failed, Finished
from serving.llama_cpp.structured.tool_calls import CallFormat
from serving.openai_api.answers import Choice, CompletionObject, UsageObject
from serving.openai_api.errors import ApiError, ErrorBody
from serving.openai_api.request import CompletionRequest
from serving.openai_api.response_format import schema_refused
from serving.tracebacks import frames

log = logging.getLogger("tuneline.serving")


class RunningAnswer:
    """One answer, from the engine's thread to one client."""

    def __init__(
        self, batcher: Batcher, request: CompletionRequest, answer: Answer, calls: CallFormat | None
    ) -> None:
        """`calls`: how the answer calls functions, where it may."""
        self._batcher, self._request, self._answer, self._calls = batcher, request, answer, calls
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._text = Text(request.stop)
        self._count = 0
        self._id = f"{'chatcmpl' if request.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        loop = asyncio.get_running_loop()
        answer.tell = lambda event: _hand_over(loop, self._events, event)

    def submit(self) -> None:
        try:
            self._batcher.submit(self._answer)
        except UnknownModel as error:
            raise ApiError(str(error), "model", 404, "model_not_found") from None
        except Overloaded as error:
            raise ApiError(str(error), None, 429, "overloaded") from None
        except ServingError as error:
            raise ApiError(str(error), None, 503, "unavailable") from None

    def cancel(self) -> None:
        self._batcher.cancel(self._answer)

    async def next(self) -> Event:
        return await self._events.get()

    async def _pieces(self, event: Event) -> AsyncIterator[tuple[str, str | None]]:
        """Pieces of text, the last with the reason of the end. Raises `ApiError` when the engine fails."""
        while True:
            if isinstance(event, Failed):
                raise failure(event)
            if isinstance(event, Finished):
                yield self._text.end(), event.reason
                return
            self._count += 1
            text = self._text.add(event)
            if self._text.stopped:
                self.cancel()
                yield text, "stop"
                return
            if text:
                yield text, None
            event = await self._events.get()

    async def whole(self, first: Event) -> CompletionObject:
        parts, reason = [], None
        async for text, end in self._pieces(first):
            parts.append(text)
            reason = end or reason
        return {**self._object("".join(parts), reason, "message"), "usage": self._usage()}

    async def stream(self, first: Event) -> AsyncIterator[bytes]:
        try:
            if self._request.chat:
                opening = self._object("", None, "delta")
                opening["choices"][0]["delta"]["role"] = "assistant"
                yield _sse(opening)
            calls = self._calls
            parts = self._as_it_comes(first) if calls is None else self._with_calls(calls, first)
            async for part in parts:
                yield part
            if self._request.wants_usage:
                yield _sse({**self._object("", None, "delta"), "choices": [], "usage": self._usage()})
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            yield _sse(error.body)
        except Exception as error:
            yield _sse(unexpected(error).body)
        finally:
            self.cancel()  # the client has gone, or there is nothing left to cancel

    async def _as_it_comes(self, first: Event) -> AsyncIterator[bytes]:
        async for text, reason in self._pieces(first):
            if text:
                yield _sse(self._object(text, None, "delta"))
            if reason:
                yield _sse(self._object("", reason, "delta"))

    async def _with_calls(self, calls: CallFormat, first: Event) -> AsyncIterator[bytes]:
        """Text as it comes, as long as it cannot be the beginning of a call; calls when all are there."""
        text, told, reason = "", 0, None
        async for piece, end in self._pieces(first):
            text, reason = text + piece, end or reason
            if (certain := calls.certain(text)) > told:
                yield _sse(self._object(text[told:certain], None, "delta"))
                told = certain
        whole = self._object(text, reason, "message")["choices"][0]
        if rest := (whole["message"]["content"] or "")[told:]:
            yield _sse(self._object(rest, None, "delta"))
        for index, call in enumerate(whole["message"].get("tool_calls", [])):
            part = self._object("", None, "delta")
            part["choices"][0]["delta"] = {"tool_calls": [{"index": index, **call}]}
            yield _sse(part)
        yield _sse(self._object("", whole["finish_reason"], "delta"))

    def _object(self, text: str, reason: str | None, shape: Literal["message", "delta"]) -> CompletionObject:
        choice: Choice = {"index": 0, "finish_reason": reason, "logprobs": None}
        if not self._request.chat:
            choice["text"] = text
        elif shape == "message":
            choice["message"] = {"role": "assistant", "content": text}
            said, calls = (text, []) if self._calls is None else self._calls.read(text)
            if calls:
                choice["message"] = {"role": "assistant", "content": said or None, "tool_calls": calls}
                choice["finish_reason"] = "tool_calls" if reason == "stop" else reason
        else:
            choice["delta"] = {} if reason else {"content": text}
        kind = "chat.completion" if self._request.chat else "text_completion"
        kind += ".chunk" if self._request.chat and shape == "delta" else ""
        model = self._request.model
        return {"id": self._id, "object": kind, "created": self._created, "model": model, "choices": [choice]}

    def _usage(self) -> UsageObject:
        prompt = len(self._answer.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._count,
            "total_tokens": prompt + self._count,
            "prompt_tokens_details": {"cached_tokens": self._answer.cached},
        }


def _hand_over(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, event)


def failure(event: Failed) -> ApiError:
    """An answer that ended, in OpenAI's shape."""
    if event.code == "invalid_schema":
        return schema_refused(f"while it was followed: {event.message}")
    return ApiError(event.message, None, 429 if event.code == "overloaded" else 503, event.code)


def unexpected(error: Exception) -> ApiError:
    """What a client is told of a defect; the log gets where it is, without what the client wrote."""
    log.error("a request failed: %s", frames(error))
    return ApiError("the engine failed at this request; its log says where", None, 500, "internal")


def _sse(body: CompletionObject | ErrorBody) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
