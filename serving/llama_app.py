"""The engine's door for requests, as an ASGI application.

`/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/health`; anything else is 404.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.errors import NotServable, Overloaded, ServingError, UnknownModel
from serving.llama_answers import Answer, Event, Failed, Finished
from serving.llama_batching import Batcher
from serving.llama_model import Sampling
from serving.llama_text import Text
from serving.openai_requests import MOST_BYTES, Refused, Wanted, read

RETRY_SECONDS = 1
STUCK_SECONDS = 60.0
"""Without a step of the engine's thread for so long, the engine is not healthy."""


class Requests:
    """Answers completion requests with what `batcher` makes of them."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        template = batcher.model.metadata("tokenizer.chat_template")
        if not template:
            raise NotServable("the file has no chat template; give one in the recipe: base.chat_template")
        # its environment is Jinja's immutable sandbox: the template comes with the file
        self._formatter = Jinja2ChatFormatter(
            template, eos_token=batcher.model.special("eos"), bos_token=batcher.model.special("bos")
        )

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.text, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
        ]
        errors = {HTTPException: _http_error, Refused: refused, ClientDisconnect: _nobody_there}
        return Starlette(routes=routes, exception_handlers=errors)

    async def health(self, _: Request) -> Response:
        return health_of(self.batcher)

    async def models(self, _: Request) -> Response:
        served = [one.name for one in self.batcher.residents if not one.leaving]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "tuneline"} for name in served]
        return JSONResponse({"object": "list", "data": data})

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, chat=True)

    async def text(self, request: Request) -> Response:
        return await self._complete(request, chat=False)

    async def _complete(self, request: Request, chat: bool) -> Response:
        wanted = read(await body_of(request), chat)
        prompt = await asyncio.to_thread(self._prompt, wanted)
        running = _Running(self.batcher, wanted, self._answer(wanted, prompt), chat)
        running.submit()
        try:
            first = await _unless_gone(request, running.next())
        except BaseException:
            running.cancel()
            raise
        if isinstance(first, Failed):
            raise _failure(first)
        if wanted.stream:
            return StreamingResponse(
                running.stream(first), media_type="text/event-stream", headers={"cache-control": "no-store"}
            )
        return JSONResponse(await _unless_gone(request, running.whole(first), running.cancel))

    def _prompt(self, wanted: Wanted) -> tuple[int, ...]:
        model = self.batcher.model
        if wanted.messages is None:
            assert wanted.prompt is not None
            tokens = self._tokens(wanted.prompt, wanted, add_special=True)
        else:
            try:
                rendered = self._formatter(messages=list(wanted.messages)).prompt
            except Exception as error:  # a template is a program, and may fail in any way
                raise Refused(
                    f"the model's chat template refuses these messages: {error}", "messages"
                ) from None
            tokens = self._tokens(rendered, wanted, add_special=False)
        if not tokens:
            raise Refused("the prompt is empty", "prompt")
        if model.context_length - len(tokens) < (wanted.max_tokens or 1):
            raise self._too_long(str(len(tokens)), wanted)
        return tokens

    def _tokens(self, text: str, wanted: Wanted, add_special: bool) -> tuple[int, ...]:
        least = self.batcher.model.least_tokens(text)
        if least > self.batcher.model.context_length:
            raise self._too_long(f"at least {least}", wanted)
        return self.batcher.model.tokenize(text, add_special)

    def _too_long(self, tokens: str, wanted: Wanted) -> Refused:
        room = self.batcher.model.context_length
        return Refused(
            f"this model's maximum context length is {room} tokens; the prompt has {tokens}, and "
            f" {wanted.max_tokens or 1} are asked for",
            "prompt" if wanted.messages is None else "messages",
            code="context_length_exceeded",
        )

    def _answer(self, wanted: Wanted, prompt: tuple[int, ...]) -> Answer:
        room = self.batcher.model.context_length - len(prompt)
        sampling = Sampling(seed=wanted.seed, **wanted.numbers)  # type: ignore[arg-type]
        return Answer(wanted.model, prompt, wanted.max_tokens or room, sampling, wanted.salt, lambda _: None)


class _Running:
    """One answer, from the engine's thread to one client."""

    def __init__(self, batcher: Batcher, wanted: Wanted, answer: Answer, chat: bool) -> None:
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
            raise Refused(str(error), "model", 404, "model_not_found") from None
        except Overloaded as error:
            raise Refused(str(error), None, 429, "overloaded") from None
        except ServingError as error:
            raise Refused(str(error), None, 503, "unavailable") from None

    def cancel(self) -> None:
        self._batcher.cancel(self._answer)

    async def next(self) -> Event:
        return await self._events.get()

    async def _told(self, event: Event) -> AsyncIterator[tuple[str, str | None]]:
        """Pieces of text, the last with the reason of the end. Raises `Refused` when the engine fails."""
        while True:
            if isinstance(event, Failed):
                raise _failure(event)
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
            if self._wanted.usage_in_stream:
                yield _sse(self._object("", None, "delta") | {"choices": [], "usage": self._usage()})
            yield b"data: [DONE]\n\n"
        except Refused as error:
            yield _sse(error.body)
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


def health_of(batcher: Batcher) -> Response:
    """What the engine says of itself; 503 when it is stuck."""
    ok = batcher.alive and batcher.beat() < STUCK_SECONDS
    waiting, active = map(sum, zip(*batcher.queued().values(), strict=True))
    body = {
        "status": "ok" if ok else "stuck",
        "base": batcher.base_name,
        "waiting": waiting,
        "active": active,
    }
    body |= asdict(batcher.counts)
    return JSONResponse(body, status_code=200 if ok else 503)


async def body_of(request: Request) -> bytes:
    """The request's body. Raises `Refused` when it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise Refused(f"the body is larger than {MOST_BYTES} bytes", None, 413, "too_large")
    return b"".join(parts)


async def _unless_gone(request: Request, work: Any, cancel: Any = None) -> Any:
    """The result of `work`; when the client hangs up first, `work` ends with `ClientDisconnect`."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        if cancel is not None:
            cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _hand_over(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, event)


def _failure(event: Failed) -> Refused:
    if event.overloaded:
        return Refused(event.message, None, 429, "overloaded")
    return Refused(event.message, None, 503, "unavailable")


def _sse(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def refused(_: Request, error: Exception) -> Response:
    """The error in OpenAI's shape."""
    assert isinstance(error, Refused)
    headers = {"retry-after": str(math.ceil(RETRY_SECONDS))} if error.status in (429, 503) else None
    return JSONResponse(error.body, error.status, headers)


async def _nobody_there(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it, and it is no error of ours to log


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    refused = Refused(message, None, error.status_code, "not_found" if error.status_code == 404 else "http")
    return JSONResponse(refused.body, error.status_code)
