"""The answers to one request on their way from the engine's thread to the client, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial

from serving.errors import ServingError
from serving.llama_cpp.completions import logprobs
from serving.llama_cpp.completions.choice import Choice, Piece, failure, not_queued
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Answer, Event, Failed, Token
from serving.openai_api import answers as shapes
from serving.openai_api.answers import CompletionObject, UsageObject
from serving.openai_api.errors import ApiError, ErrorBody
from serving.openai_api.fields import JsonObject
from serving.openai_api.parts import Deltas, Parts
from serving.openai_api.request import CompletionRequest
from serving.tracebacks import frames

log = logging.getLogger("tuneline.serving")

Told = tuple[int, Event]
"""Which of the answers, and what became of it."""


class RunningCompletion:
    """All answers to a request; its coroutines belong to the loop in which it was made."""

    def __init__(
        self, batcher: Batcher, request: CompletionRequest, answers: Sequence[Answer], parts: Parts
    ) -> None:
        """`parts`: how a chat's answers are taken apart."""
        self._batcher, self._request, self._parts = batcher, request, parts
        self._events: asyncio.Queue[Told] = asyncio.Queue()
        self._first: list[Told] = []
        self._id = f"{'chatcmpl' if request.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        loop = asyncio.get_running_loop()
        for index, answer in enumerate(answers):
            answer.tell = partial(_hand_over, loop, self._events, index)
        self._choices = [Choice(answer, request.stop, partial(batcher.cancel, answer)) for answer in answers]
        self._letters = [0] * len(answers)
        """Of each text completion, that were sent."""

    def submit(self) -> None:
        """Queue all answers, or none. Raises `ApiError`."""
        try:
            self._batcher.submit(*(choice.answer for choice in self._choices))
        except ServingError as error:
            raise not_queued(error) from None

    def cancel(self) -> None:
        for choice in self._choices:
            self._batcher.cancel(choice.answer)

    async def begun(self) -> None:
        """Wait for the first token, or an end. Raises `ApiError` where that is a failure."""
        self._first.append(await self._events.get())
        event = self._first[0][1]
        if isinstance(event, Failed):
            raise failure(event)

    async def whole(self) -> CompletionObject:
        pieces: list[list[Piece]] = [[] for _ in self._choices]
        async for index, piece in self._pieces():
            pieces[index].append(piece)
        choices = [self._choice(index, made) for index, made in enumerate(pieces)]
        return {**self._object(choices), "usage": self._usage()}

    async def stream(self) -> AsyncGenerator[bytes, None]:
        try:
            parts = self._chat() if self._request.chat else self._text()
            async for choice in parts:
                yield _sse(self._object([choice], ".chunk" if self._request.chat else ""))
            if self._request.wants_usage:
                chunk = self._object([], ".chunk" if self._request.chat else "")
                yield _sse({**chunk, "usage": self._usage()})
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            yield _sse(error.body)
        except Exception as error:
            yield _sse(unexpected(error).body)
        finally:
            self.cancel()  # the client has gone, or there is nothing left to cancel

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Of all answers as they come, until each has ended. Raises `ApiError`; then all are cancelled."""
        left = len(self._choices)
        try:
            while left:
                index, event = self._first.pop() if self._first else await self._events.get()
                piece = self._choices[index].take(event)
                if piece is not None:
                    left -= piece.reason is not None
                    yield index, piece
        except ApiError:
            self.cancel()
            raise

    async def _text(self) -> AsyncIterator[shapes.Choice]:
        async for index, piece in self._pieces():
            if piece.text or piece.scored:
                yield self._text_choice(index, piece.text, piece.scored, None)
            if piece.reason:
                yield self._text_choice(index, "", (), piece.reason)

    async def _chat(self) -> AsyncIterator[shapes.Choice]:
        deltas = [Deltas(self._parts) for _ in self._choices]
        scored: list[list[Token]] = [[] for _ in self._choices]

        def chunk(index: int, delta: JsonObject, reason: str | None = None) -> shapes.Choice:
            told, scored[index] = scored[index], []
            return {"index": index, "finish_reason": reason, "logprobs": self._scores(told), "delta": delta}

        for index in range(len(self._choices)):
            yield chunk(index, {"role": "assistant", "content": ""})
        async for index, piece in self._pieces():
            scored[index] += piece.scored
            for delta in deltas[index].add(piece.text):
                yield chunk(index, delta)
            if piece.reason:
                held, calls = deltas[index].end()
                for delta in held:
                    yield chunk(index, delta)
                yield chunk(index, {}, _reason(piece.reason, calls))

    def _choice(self, index: int, pieces: Sequence[Piece]) -> shapes.Choice:
        """A whole answer."""
        text, reason = "".join(piece.text for piece in pieces), pieces[-1].reason
        scored = [token for piece in pieces for token in piece.scored]
        if not self._request.chat:
            return self._text_choice(index, text, scored, reason)
        thought, content, calls = self._parts.whole(text)
        message: JsonObject = {"role": "assistant", "content": content}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        reason = _reason(reason, bool(calls))
        return {
            "index": index,
            "finish_reason": reason,
            "logprobs": self._scores(scored),
            "message": message,
        }

    def _text_choice(
        self, index: int, text: str, scored: Sequence[Token], reason: str | None
    ) -> shapes.Choice:
        scores = logprobs.of_text(self._batcher.model, scored, self._letters[index]) if scored else None
        self._letters[index] += len(text)
        return {"index": index, "finish_reason": reason, "logprobs": scores, "text": text}

    def _scores(self, scored: Sequence[Token]) -> JsonObject | None:
        return logprobs.of_chat(self._batcher.model, scored) if scored else None

    def _object(self, choices: list[shapes.Choice], shape: str = "") -> CompletionObject:
        kind = ("chat.completion" if self._request.chat else "text_completion") + shape
        model = self._request.model
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": model,
            "choices": choices,
        }

    def _usage(self) -> UsageObject:
        """The prompt counts once, the tokens of all answers."""
        prompt = len(self._choices[0].answer.prompt)
        made = sum(choice.count for choice in self._choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
            "prompt_tokens_details": {"cached_tokens": self._choices[0].answer.cached},
        }


def _reason(reason: str | None, calls: bool) -> str | None:
    return "tool_calls" if calls and reason == "stop" else reason


def _hand_over(
    loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Told], index: int, event: Event
) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, (index, event))


def unexpected(error: Exception) -> ApiError:
    """What a client is told of a defect; the log gets where it is, without what the client wrote."""
    log.error("a request failed: %s", frames(error))
    return ApiError("the engine failed at this request; its log says where", None, 500, "internal")


def _sse(body: CompletionObject | ErrorBody) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
