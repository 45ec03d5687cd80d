"""What clients may ask of the engine, as an ASGI application.

`/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/health`; anything else is 404.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

from llama_cpp import llama_cpp as low
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.errors import NotServable
from serving.llama_cpp.chat_template import ChatTemplate
from serving.llama_cpp.completions.running import RunningCompletion, unexpected
from serving.llama_cpp.sampling import Sampling
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Answer
from serving.llama_cpp.structured.compiling import Compiler, CompileTimeSpent
from serving.llama_cpp.structured.constraints import Constraint, SchemaRefused
from serving.openai_api.answers import model_list, model_object, no_model
from serving.openai_api.body import collect, require_no_query
from serving.openai_api.errors import ApiError
from serving.openai_api.parts import Parts
from serving.openai_api.request import LACKING, MOST_BYTES, CompletionRequest, RequestLimits, read
from serving.openai_api.response_format import schema_of, schema_refused

MOST_ANSWERS = 16
"""To one request."""
LIMITS = RequestLimits(n=MOST_ANSWERS, lacking=LACKING["llama.cpp"])
SEED_STEP = 0x9E3779B1
"""From one answer's seed to the next one's; the largest seed of llama.cpp draws one, and is left out."""
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
        return await self._complete(request, chat=True)

    async def text(self, request: Request) -> Response:
        return await self._complete(request, chat=False)

    async def _complete(self, request: Request, chat: bool) -> Response:
        try:
            return await self._completed(request, chat)
        except (ApiError, ClientDisconnect):
            raise
        except Exception as error:
            raise unexpected(error) from None

    async def _completed(self, request: Request, chat: bool) -> Response:
        require_no_query(request.url.query)
        wanted = read(await collect(request.stream(), MOST_BYTES), chat, LIMITS)
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
        if wanted.stream:
            headers = {"cache-control": "no-store", **self._receipt}
            return StreamingResponse(running.stream(), 200, headers, media_type="text/event-stream")
        whole = await _unless_gone(request, running.whole(), running.cancel)
        return JSONResponse(whole, headers=self._receipt)

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


def sampling_of(wanted: CompletionRequest, index: int) -> Sampling:
    """How the answer of that index is drawn. With a seed, the first is as it would be alone."""
    seed = None if wanted.seed is None else (wanted.seed + index * SEED_STEP) % low.LLAMA_DEFAULT_SEED
    likeliest = wanted.likeliest
    return Sampling(**wanted.numbers, seed=seed, likeliest=likeliest)  # type: ignore[arg-type]  # top_k is whole


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
