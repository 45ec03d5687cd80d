"""One answer on its way from the engine's thread to one client, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from serving.errors import Overloaded, ServingError, UnknownModel
from serving.llama_cpp.detokenizer import Text
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Answer, Event, Failed, Finished
from serving.openai_api.errors import ApiError
from serving.openai_api.request import CompletionRequest
from serving.tracebacks import frames

log = logging.getLogger("tuneline.serving")


class Running:
    """One answer, from the engine's thread to one client."""

    def __init__(self, batcher: Batcher, wanted: CompletionRequest, answer: Answer, chat: bool) -> None:
        self._batcher, self._wanted, self._answer, self._chat = batcher, wanted, answer, chat
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._text = Text(wanted.stop)
        self._count = 0
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
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

    async def _told(self, event: Event) -> AsyncIterator[tuple[str, str | None]]:
        """Pieces of text, the last with the reason of the end. Raises `ApiError` when the engine fails."""
        while True:
            if isinstance(event, Failed):
                raise failure(event)
            if isinstance(event, Finished):
                yield self._text.end(), event.reason
                return
            self._count += 1
            told = self._text.add(event)
            if self._text.stopped:
                self.cancel()
                yield told, "stop"
                return
            if told:
                yield told, None
            event = await self._events.get()

    async def whole(self, first: Event) -> dict[str, Any]:
        parts, reason = [], None
        async for told, end in self._told(first):
            parts.append(told)
            reason = end or reason
        return self._object("".join(parts), reason, "message") | {"usage": self._usage()}

    async def stream(self, first: Event) -> AsyncIterator[bytes]:
        try:
            if self._chat:
                opening = self._object("", None, "delta")
                opening["choices"][0]["delta"]["role"] = "assistant"
                yield _sse(opening)
            async for told, reason in self._told(first):
                if told:
                    yield _sse(self._object(told, None, "delta"))
                if reason:
                    yield _sse(self._object("", reason, "delta"))
            if self._wanted.wants_usage:
                yield _sse(self._object("", None, "delta") | {"choices": [], "usage": self._usage()})
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            yield _sse(error.body)
        except Exception as error:
            yield _sse(unexpected(error).body)
        finally:
            self.cancel()  # the client has gone, or there is nothing left to cancel

    def _object(self, text: str, reason: str | None, shape: str) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if not self._chat:
            choice["text"] = text
        elif shape == "message":
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["delta"] = {} if reason else {"content": text}
        kind = "chat.completion" if self._chat else "text_completion"
        kind += ".chunk" if self._chat and shape == "delta" else ""
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self._wanted.model,
            "choices": [choice],
        }  # fmt: skip

    def _usage(self) -> dict[str, Any]:
        prompt = len(self._answer.prompt)
        return {
            "prompt_tokens": prompt, "completion_tokens": self._count, "total_tokens": prompt + self._count,
            "prompt_tokens_details": {"cached_tokens": self._answer.cached},
        }  # fmt: skip


def _hand_over(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, event)


def failure(event: Failed) -> ApiError:
    """An answer that ended, in OpenAI's shape."""
    if event.overloaded:
        return ApiError(event.message, None, 429, "overloaded")
    return ApiError(event.message, None, 503, "unavailable")


def unexpected(error: Exception) -> ApiError:
    """What a client is told of a defect; the log gets where it is, without what the client wrote."""
    log.error("a request failed: %s", frames(error))
    return ApiError("the engine failed at this request; its log says where", None, 500, "internal")


def _sse(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
