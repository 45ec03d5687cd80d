"""In front of vLLM's routes, in vLLM's own process: what is reachable, and how many answers are under way.

vLLM loads it with `--middleware`; beside the standard library it imports the schema alone, as that
environment has no library of ours. vLLM counts no requests of an adapter, forgets a name at once when told to
unload it, has no bound for what waits, answers with the base where a request names no model, and has thirty
more routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from serving.openai_api.answers import ModelList, ModelObject, model_list, model_object, no_model
from serving.openai_api.errors import ApiError, ErrorBody
from serving.openai_api.fields import JsonObject, in_known_roles, meant

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COMPLETIONS = {("POST", "/v1/chat/completions"), ("POST", "/v1/completions")}
ANSWERED = {("http", path) for _, path in COMPLETIONS}
MODELS = "/v1/models"
CONTROL = {("GET", "/health"), ("GET", "/metrics")}
LOAD = ("POST", "/v1/load_lora_adapter")
UNLOAD = ("POST", "/v1/unload_lora_adapter")
UNDER_WAY = ("GET", "/tuneline/under-way")
DEADLY = ("prompt_logprobs", "echo")
"""With adapters on a CPU, vLLM 0.32 ends for everybody when one asks for log-probabilities of the prompt
while it decodes for another; `echo` does so too, together with `logprobs`."""
RENAMED = {"repeat_penalty": "repetition_penalty"}
"""llama.cpp's name → vLLM's, which ignores the other."""
OF_TOOLS = ("tool_choice", "parallel_tool_calls")
"""Fields without a meaning where there are no tools."""
KEY_HEADER = b"x-tuneline-control"


class AdmissionMiddleware:
    """Counts by name, lets nobody in to an adapter that leaves, and forwards its unload when the last is out.

    Everything but `COMPLETIONS` and the models is a 404 without the key that the starter gave us.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = os.environ["TUNELINE_CONTROL_KEY"].encode()
        self._most = int(os.environ["TUNELINE_MOST_REQUESTS"])
        self._active: Counter[str] = Counter()
        self._leaving: dict[str, asyncio.Event] = {}
        """Name → set when the last answer is out."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (route := (scope["method"], scope["path"])) in COMPLETIONS:
            await self._ask(scope, receive, send)
        elif (name := _model_asked_for(scope)) in self._leaving:
            await refuse(send, no_model(str(name)))
        elif name is not None:
            await self._app(scope, receive, send)
        elif not self._has_key(scope):
            await refuse(send, _no_route(route))
        else:
            await self._control(route, scope, receive, send)

    async def _control(self, route: tuple[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        if route == UNDER_WAY:
            await _answer(send, 200, {"under_way": sum(self._active.values())})
        elif route == UNLOAD:
            await self._unload(scope, receive, send)
        elif route == LOAD:
            with self._counted("a load"):
                await self._app(scope, receive, send)
        elif route in CONTROL:
            await self._app(scope, receive, send)
        else:
            await refuse(send, _no_route(route))

    def _has_key(self, scope: Scope) -> bool:
        keys = [value for name, value in scope["headers"] if name == KEY_HEADER]
        return len(keys) == 1 and hmac.compare_digest(keys[0], self._key)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await whole(receive)
        if body is None:
            return
        request = object_in(body)
        name = request.get("model")
        if not name or not isinstance(name, str):
            await refuse(send, _invalid("the body has to be a JSON object that names a `model`"))
        elif deadly := [key for key in DEADLY if not (request.get(key) is None or request[key] is False)]:
            await refuse(send, _invalid(f"{deadly[0]} is not supported here"))
        elif name in self._leaving:
            await refuse(send, no_model(name))
        elif sum(self._active.values()) + _answers(request) > self._most and not self._has_key(scope):
            # a probe has the key
            message = f"{sum(self._active.values())} of {self._most} answers are under way; try again later"
            await refuse(send, ApiError(message, None, 429, "overloaded"))
        else:
            with self._counted(name, _answers(request)):
                await self._app(scope, again(body, receive), send)

    @contextlib.contextmanager
    def _counted(self, name: str, answers: int = 1) -> Iterator[None]:
        self._active[name] += answers
        try:
            yield
        finally:
            self._active[name] -= answers
            if not self._active[name]:
                del self._active[name]
                if name in self._leaving:
                    self._leaving[name].set()

    async def _unload(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await whole(receive)
        name = str(object_in(body or b"").get("lora_name"))
        empty = self._leaving.setdefault(name, asyncio.Event())
        if not self._active[name]:
            empty.set()
        await empty.wait()
        try:
            await self._app(scope, again(body or b"", receive), send)
        finally:
            self._leaving.pop(name, None)


class Dialect:
    """What vLLM takes and says otherwise than the gateway and llama.cpp do.

    It refuses some of what says nothing (`tools: []`, `min_tokens: null`), gives templates the role
    `developer`, has no `/v1/models/{id}`, tells in its list of models where their files are, and logs the
    name of a model that it does not have, which may be a key in the wrong place.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._known: set[str] = set()
        """Names that it had; also of adapters that have gone, which are no client's words."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (name := _model_asked_for(scope)) is not None:
            await self._models(name, scope, receive, send)
        elif scope["type"] == "http" and (scope["method"], scope["path"]) in COMPLETIONS:
            await self._ask(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await whole(receive)
        if body is None:
            return
        given = object_in(body)
        if not await self._knows(given.get("model"), scope, receive):
            await refuse(send, no_model(str(given["model"])))
            return
        request = meant(given)
        pairs = ((old, new) for old, new in RENAMED.items() if old in request)
        if differing := [old for old, new in pairs if request.get(new, request[old]) != request[old]]:
            old = differing[0]
            await refuse(send, _invalid(f"{old} and {RENAMED[old]} are names of one setting"))
            return
        if "tools" in request:
            request |= {name: given[name] for name in OF_TOOLS if name in given}
        if not request.get("stream"):
            request.pop("stream_options", None)
        request.pop("reasoning_format", None)  # which `Thoughts` has read
        request |= in_known_roles(request.get("messages"))
        if given:
            body = json.dumps({RENAMED.get(name, name): value for name, value in request.items()}).encode()
        await self._app(scope, again(body, receive), send)

    async def _knows(self, name: Any, scope: Scope, receive: Receive) -> bool:
        """Whether `name` is a model's; what is not a name at all is vLLM's to judge."""
        if not isinstance(name, str) or name in self._known:
            return True
        status, body = await self._listed(scope, receive)
        self._known |= {model["id"] for model in object_in(body).get("data", ())}
        return status != 200 or name in self._known

    async def _models(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        status, body = await self._listed(scope, receive)
        models = [model_object(model["id"]) for model in object_in(body).get("data", ())]
        if status != 200:
            await _answer(send, status, object_in(body))
        elif not name:
            await _answer(send, 200, model_list(models))
        elif named := [model for model in models if model["id"] == name]:
            await _answer(send, 200, named[0])
        else:
            await refuse(send, no_model(name))

    async def _listed(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        """vLLM's own answer."""
        status, parts = 500, list[bytes]()

        async def keep(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        of_models = {"method": "GET", "path": MODELS, "raw_path": MODELS.encode()}
        await self._app({**scope, **of_models}, receive, keep)
        return status, b"".join(parts)


class ArtifactHeaderMiddleware:
    """Tells with each answer which artifact gave it, where an endpoint serves one only."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._header = (b"x-tuneline-artifact", os.environ["TUNELINE_ARTIFACT"].encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_receipt(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        await self._app(
            scope, receive, with_receipt if (scope["type"], scope.get("path")) in ANSWERED else send
        )


def _model_asked_for(scope: Scope) -> str | None:
    """The name in `GET /v1/models/{id}`, empty for the list; None where something else is asked for."""
    path = scope.get("path", "")
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    if path == MODELS:
        return ""
    return path.removeprefix(f"{MODELS}/") or None if path.startswith(f"{MODELS}/") else None


def _answers(request: JsonObject) -> int:
    """How many a request asks for; what is no number of them is vLLM's to judge."""
    n = request.get("n")
    return n if isinstance(n, int) and n > 1 else 1


def object_in(body: bytes) -> JsonObject:
    """The JSON object in it; an empty one where there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


async def whole(receive: Receive) -> bytes | None:
    """The body; None when the client has hung up before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, and then what comes after it: the client's hanging up."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def first_the_body() -> Message:
        return left.pop() if left else await receive()

    return first_the_body


def _invalid(message: str) -> ApiError:
    return ApiError(message, code="invalid_request")


def _no_route(route: tuple[str, str]) -> ApiError:
    return ApiError(f"{' '.join(route)}: not found", None, 404, "not_found")


async def refuse(send: Send, error: ApiError) -> None:
    await _answer(send, error.status, error.body)


async def _answer(send: Send, status: int, body: JsonObject | ErrorBody | ModelList | ModelObject) -> None:
    headers = [(b"content-type", b"application/json")]
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
