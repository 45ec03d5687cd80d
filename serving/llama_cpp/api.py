"""What clients may ask of the engine, as an ASGI application.

`/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings`, `/v1/models`, `/health`; no
more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.errors import NotServable
from serving.llama_cpp.chat_template import ChatTemplate
from serving.llama_cpp.completions.embeddings import RunningEmbeddings, tokens_of
from serving.llama_cpp.completions.running import RunningCompletion, unexpected
from serving.llama_cpp.sampling import sampling_of
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Answer
from serving.llama_cpp.structured.compiling import Compiler, CompileTimeSpent
from serving.llama_cpp.structured.constraints import Constraint, SchemaRefused
from serving.openai_api.answers import model_list, model_object, no_model
from serving.openai_api.body import collect, require_no_query
from serving.openai_api.embeddings import read_embeddings
from serving.openai_api.errors import ApiError
from serving.openai_api.parts import Parts
from serving.openai_api.request import LACKING, MOST_BYTES, CompletionRequest, RequestLimits, read
from serving.openai_api.response_format import schema_of, schema_refused
from serving.openai_api.responses.answer import ResponseWriter
from serving.openai_api.responses.request import in_its_words, read_response
from serving.openai_api.responses.stream import ResponseStream

MOST_ANSWERS = 16
"""To one request."""
LIMITS = RequestLimits(n=MOST_ANSWERS, lacking=LACKING["llama.cpp"])
STUCK_SECONDS = 60.0
"""Without a step of the engine's thread for so long, the engine is not healthy."""

T = TypeVar("T")


class Requests:
    """Answers completion requests with what `batcher` makes of them."""

    def __init__(self, batcher: Batcher, name: str | None = None, artifact: str | None = None) -> None:
        """`name`: one more for the model alone, listed first; `artifact`: its id, told with each answer."""
        self.batcher = batcher
        self._names = {} if name is None else {name: batcher.base_name}
        self._receipt = {} if artifact is None else {"x-tuneline-artifact": artifact}
        template = batcher.model.metadata("tokenizer.chat_template")
        if not template:
            raise NotServable("the file has no chat template; give one in the recipe: base.chat_template")
        self._template = ChatTemplate(template, batcher.model)
        self._compiler = Compiler()

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.text, methods=["POST"]),
            Route("/v1/responses", self.responses, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
        ]
        errors = {HTTPException: _http_error, ApiError: refused, ClientDisconnect: _nobody_there}
        return Starlette(routes=routes, exception_handlers=errors)

    async def health(self, _: Request) -> Response:
        return health_of(self.batcher)

    async def models(self, _: Request) -> Response:
        return JSONResponse(model_list(map(model_object, self._served())))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._served():
            raise no_model(name)
        return JSONResponse(model_object(name))

    def _served(self) -> list[str]:
        return [*self._names, *(model.name for model in self.batcher.loaded if not model.leaving)]

    async def chat(self, request: Request) -> Response:
        return await _told(self._completed(request, chat=True))

    async def text(self, request: Request) -> Response:
        return await _told(self._completed(request, chat=False))

    async def responses(self, request: Request) -> Response:
        return await _told(self._responded(request))

    async def embeddings(self, request: Request) -> Response:
        return await _told(self._embedded(request))

    async def _completed(self, request: Request, chat: bool) -> Response:
        wanted = read(await _body(request), chat, LIMITS)
        running = await self._begun(request, wanted)
        if wanted.stream:
            return self._streamed(running.stream())
        whole = await _unless_gone(request, running.whole(), running.cancel)
        return JSONResponse(whole, headers=self._receipt)

    async def _responded(self, request: Request) -> Response:
        wanted = read_response(await _body(request), LIMITS)
        writer = ResponseWriter(wanted.completion.model, wanted.echo)
        try:
            running = await self._begun(request, wanted.completion)
            if wanted.completion.stream:
                return self._streamed(_events(running.stream(), ResponseStream(writer)))
            whole = await _unless_gone(request, running.whole(), running.cancel)
        except ApiError as error:
            raise in_its_words(error) from None
        return JSONResponse(writer.whole(dict(whole)), headers=self._receipt)

    async def _embedded(self, request: Request) -> Response:
        wanted = read_embeddings(await _body(request), LIMITS)
        tokens = await asyncio.to_thread(tokens_of, self.batcher.model, wanted)
        name = self._names.get(wanted.model, wanted.model)
        running = RunningEmbeddings(self.batcher, wanted, name, tokens)
        running.submit()
        whole = await _unless_gone(request, running.whole(), running.cancel)
        return Response(whole, headers=self._receipt, media_type="application/json")

    async def _begun(self, request: Request, wanted: CompletionRequest) -> RunningCompletion:
        """The answers to a request, once the first of their tokens has come."""
        parts = await asyncio.to_thread(self._template.parts, wanted)
        answers = await asyncio.to_thread(self._answers, wanted, parts)
        for answer, constraint in zip(answers, await self._constraints(wanted), strict=True):
            answer.constraint = constraint
        running = RunningCompletion(self.batcher, wanted, answers, parts)
        running.submit()
        try:
            await _unless_gone(request, running.begun())
        except BaseException:
            running.cancel()
            raise
        return running

    def _streamed(self, events: AsyncIterator[bytes]) -> Response:
        headers = {"cache-control": "no-store", **self._receipt}
        return StreamingResponse(events, 200, headers, media_type="text/event-stream")

    def _prompt(self, wanted: CompletionRequest) -> tuple[int, ...]:
        model = self.batcher.model
        if wanted.messages is None:
            assert wanted.prompt is not None
            tokens = self._tokens(wanted.prompt, wanted, add_special=True)
        else:
            rendered = self._template.prompt(wanted.messages, wanted.tools)
            tokens = self._tokens(rendered, wanted, add_special=False)
        if not tokens:
            raise ApiError("the prompt is empty", "prompt")
        if model.context_length - len(tokens) < (wanted.max_tokens or 1):
            raise self._too_long(len(tokens), wanted)
        return tokens

    def _tokens(self, text: str, wanted: CompletionRequest, add_special: bool) -> tuple[int, ...]:
        least = self.batcher.model.least_tokens(text)
        if least > self.batcher.model.context_length:
            raise self._too_long(least, wanted, "at least ")
        return self.batcher.model.tokenize(text, add_special)

    def _too_long(self, tokens: int, wanted: CompletionRequest, about: str = "") -> ApiError:
        room, most = self.batcher.model.context_length, wanted.max_tokens or 1
        less = f"ask for {room - tokens} at most, or leave max_tokens out"
        return ApiError(
            f"this model's maximum context length is {room} tokens; the prompt has {about}{tokens}, and "
            f"{most} are asked for: {less if tokens < room else 'shorten the prompt'}",
            "prompt" if wanted.messages is None else "messages",
            code="context_length_exceeded",
        )

    def _answers(self, wanted: CompletionRequest, parts: Parts) -> list[Answer]:
        prompt = self._prompt(wanted)
        room = self.batcher.model.context_length - len(prompt)
        name = self._names.get(wanted.model, wanted.model)
        spoken = self._template.spoken(parts)
        return [
            Answer(
                name,
                prompt,
                wanted.max_tokens or room,
                sampling_of(wanted, index),
                wanted.salt,
                lambda _: None,
                spoken=spoken,
            )
            for index in range(wanted.n)
        ]

    async def _constraints(self, wanted: CompletionRequest) -> list[Constraint] | list[None]:
        """What each answer has to fit. Raises `ApiError`."""
        tools, schema = wanted.tools, schema_of(wanted.more.get("response_format"))
        if tools is None and schema is None:
            return [None] * wanted.n
        constraints = await asyncio.to_thread(getattr, self.batcher.model, "constraints")

        def compiled() -> Constraint:
            if tools is not None:
                return constraints.grammar(self._template.grammar(tools))
            return constraints.schema(schema or {})

        source = json.dumps(schema if tools is None else tools.body())
        try:
            return await self._compiler.compiled(wanted.salt or "", source, compiled, wanted.n)
        except SchemaRefused as error:
            raise schema_refused(str(error), "tools" if tools else "response_format") from None
        except CompileTimeSpent as error:
            spent = ApiError(str(error), None, 429, "compile_time_spent")
            spent.retry_after = error.retry_after
            raise spent from None


async def _body(request: Request) -> bytes:
    require_no_query(request.url.query)
    return await collect(request.stream(), MOST_BYTES)


async def _told(work: Coroutine[Any, Any, Response]) -> Response:
    """The answer; of a defect, only that there was one."""
    try:
        return await work
    except (ApiError, ClientDisconnect):
        raise
    except Exception as error:
        raise unexpected(error) from None


async def _events(stream: AsyncGenerator[bytes, None], response: ResponseStream) -> AsyncIterator[bytes]:
    """A chat's stream in the events of a response."""
    async with contextlib.aclosing(stream):
        async for event in stream:
            if told := response.event(event.removeprefix(b"data: ").strip()):
                yield told


def health_of(batcher: Batcher) -> Response:
    """What the engine says of itself; 503 when it is stuck."""
    ok = batcher.alive and batcher.beat() < STUCK_SECONDS
    waiting, active = map(sum, zip(*batcher.queued().values(), strict=True))
    state = {"status": "ok" if ok else "stuck", "base": batcher.base_name, "waiting": waiting}
    body = {**state, "active": active, **asdict(batcher.counts)}
    return JSONResponse(body, status_code=200 if ok else 503)


async def _unless_gone(
    request: Request, work: Coroutine[Any, Any, T], cancel: Callable[[], None] = lambda: None
) -> T:
    """The result of `work`; when the client hangs up first, `work` ends with `ClientDisconnect`."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def refused(_: Request, error: Exception) -> Response:
    """The error in OpenAI's shape."""
    assert isinstance(error, ApiError)
    headers = {"retry-after": str(error.retry_after)} if error.status in (429, 503) else None
    return JSONResponse(error.body, error.status, headers)


async def _nobody_there(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it, and it is no error of ours to log


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    code = "not_found" if error.status_code == 404 else "http"
    return JSONResponse(ApiError(message, None, error.status_code, code).body, error.status_code)
