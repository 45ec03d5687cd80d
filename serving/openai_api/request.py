"""A completion request as a whole: read within limits, and written as an engine gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.openai_api.body import parse
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import Fields, JsonObject, refuse, within
from serving.openai_api.messages import Message, read_messages, read_prompt
from serving.openai_api.response_format import read_format
from serving.openai_api.settings import (
    MOST_LOGPROBS,
    read_biases,
    read_length,
    read_numbers,
    read_seed,
    read_stops,
    read_stream_options,
)
from serving.openai_api.tools import Tools, read_tools

MOST_BYTES = 1 << 20
LACKING: Mapping[str, frozenset[str]] = {
    "llama.cpp": frozenset({"best_of", "logit_bias", "echo", "suffix"}),
    "vllm": frozenset({"best_of", "echo", "suffix", "tools"}),
}
"""Fields of OpenAI's that an engine does not do, and of messages."""


@dataclass(frozen=True)
class RequestLimits:
    """What a request may be at most, and what is not done for it."""

    depth: int | None = None
    """Nesting of its JSON."""
    messages: int = 1024
    """Of a chat; items of a response's input."""
    max_tokens: int = 1 << 20
    n: int = 1
    lacking: frozenset[str] = frozenset()
    """Fields that are refused unless they say nothing."""
    inputs: int = 2048
    """Texts of a request for embeddings."""


@dataclass(frozen=True)
class CompletionRequest:
    """A request. What it does not say, or says neutrally, is None, empty or left out."""

    model: str
    messages: tuple[Message, ...] | None
    """None of a text completion."""
    prompt: str | None
    """None of a chat."""
    max_tokens: int | None
    n: int
    stop: tuple[str, ...]
    stream: bool
    wants_usage: bool
    """Whether the client asked for the tokens at the end of the stream."""
    salt: str | None
    seed: int | None
    user: str | None
    numbers: dict[str, float] = field(default_factory=dict)
    """Sampling settings by name; `repetition_penalty` under either of its names."""
    tools: Tools | None = None
    more: JsonObject = field(default_factory=dict)
    """What only some engines do, as it was sent."""

    @property
    def calls(self) -> bool:
        """Whether its conversation holds calls of functions, or its answer may."""
        held = any("tool_calls" in message or message["role"] == "tool" for message in self.messages or ())
        return self.tools is not None or held

    @property
    def chat(self) -> bool:
        return self.messages is not None

    @property
    def likeliest(self) -> int | None:
        """Of how many tokens, beside the chosen one, log-probabilities are asked for; None: of none."""
        asked = self.more.get("logprobs")
        if not self.chat:
            return asked
        return self.more.get("top_logprobs", 0) if asked else None

    def body(self) -> JsonObject:
        """As an engine gets it, without `model`, the salt and the client's own names for itself."""
        body: JsonObject = dict(self.numbers) | self.more | (self.tools.body() if self.tools else {})
        if self.messages is None:
            body["prompt"] = self.prompt
        else:
            body["messages"] = list(self.messages)
        given = {"max_tokens": self.max_tokens, "stop": list(self.stop) or None, "seed": self.seed}
        given["n"] = self.n if self.n > 1 else None
        body |= {name: value for name, value in given.items() if value is not None}
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


def read(raw: bytes, chat: bool, limits: RequestLimits) -> CompletionRequest:
    """The request in `raw`. Raises `ApiError`, in OpenAI's words."""
    given = parse(raw, limits.depth)
    fields = Fields(given)
    fields.refuse_any(limits.lacking - {"n"})  # an `n` has a message of its own
    model = read_model(fields)
    messages = None
    if chat:
        messages = read_messages(fields.take("messages"), limits.messages, limits.lacking)
    prompt = None if chat else read_prompt(fields.take("prompt"))
    n = _answers(fields, limits)
    names = ("max_completion_tokens", "max_tokens")
    lengths = [read_length(fields, name, limits.max_tokens) for name in names]
    stream = fields.flag("stream")
    request = CompletionRequest(
        model=model,
        messages=messages,
        prompt=prompt,
        max_tokens=next((length for length in lengths if length is not None), None),
        n=n,
        stop=read_stops(fields.take("stop")),
        stream=stream,
        wants_usage=read_stream_options(fields, stream),
        salt=fields.text("cache_salt"),
        seed=read_seed(fields),
        user=user_of(given),
        numbers=read_numbers(fields),
        tools=read_tools(given, fields) if chat else None,
        more=_more(fields, chat),
    )
    fields.require_nothing_left()
    require_one_form(request, "response_format")
    return request


def read_model(fields: Fields) -> str:
    """The name of the model that is asked. Raises `ApiError`."""
    model = fields.take("model")
    if not isinstance(model, str) or not model:
        refuse("model", "the name that GET /v1/models lists, as a text", model)
    return model


def user_of(given: JsonObject) -> str | None:
    """Who asks, as far as the client says."""
    user = given.get("user")
    return user if isinstance(user, str) and user else None


def require_one_form(request: CompletionRequest, param: str) -> None:
    """Raise `ApiError` where an answer may call tools and has to fit a form, which `param` asks for."""
    if request.tools and "response_format" in request.more:
        message = f"{param}: an answer that may call tools has no other form; leave one of them out"
        raise ApiError(message, param, code="unsupported_value")


def _answers(fields: Fields, limits: RequestLimits) -> int:
    most = 1 if "n" in limits.lacking else limits.n
    n = fields.take("n")
    if n is not None and not (isinstance(n, int) and within(n, 1, most)):
        if most == 1:
            message = "n: a request gets one answer; send it several times"
            raise ApiError(message, "n", code="unsupported_value")
        refuse("n", f"a whole number from 1 to {most}", n)
    best = fields.whole("best_of", 1, most)
    if best is not None and best != (n or 1):
        message = "best_of: as many answers are made as `n` says; leave it out"
        raise ApiError(message, "best_of", code="unsupported_value")
    return n or 1


def _more(fields: Fields, chat: bool) -> JsonObject:
    """What costs an engine more than a token for every token, or that only some engines do."""
    more: JsonObject = {"logit_bias": read_biases(fields.take("logit_bias") or {})}
    if chat:
        more["logprobs"] = fields.flag("logprobs") or None
        more["top_logprobs"] = fields.whole("top_logprobs", 0, MOST_LOGPROBS)
        if more["top_logprobs"] and not more["logprobs"]:
            raise ApiError("top_logprobs: expected `logprobs: true` with it; or leave it out", "top_logprobs")
        more["response_format"] = read_format(fields.take("response_format"))
        more["reasoning_format"] = fields.take("reasoning_format")
        if more["reasoning_format"] not in (None, "none"):
            refuse(
                "reasoning_format",
                "auto, or none for a thought as part of the text",
                more["reasoning_format"],
            )
    else:
        more["logprobs"] = fields.whole("logprobs", 0, MOST_LOGPROBS)
        more["echo"] = fields.flag("echo") or None
        more["suffix"] = fields.text("suffix")
    return {name: value for name, value in more.items() if value not in (None, {})}
