"""A completion request as a whole: read within limits, and written as an engine gets it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.openai_api.body import parse
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import Fields, JsonObject, refuse, within
from serving.openai_api.messages import Message, read_messages, read_prompt
from serving.openai_api.response_format import read_format
from serving.openai_api.tools import Tools, read_tools

MOST_BYTES = 1 << 20
MOST_STOPS = 4
MOST_BIASES = 300
MOST_LOGPROBS = 20
LACKING: Mapping[str, frozenset[str]] = {
    "llama.cpp": frozenset({"best_of", "logit_bias", "echo", "suffix"}),
    "vllm": frozenset({"best_of", "echo", "suffix", "tools"}),
}
"""Fields of OpenAI's that an engine does not do, and of messages."""
NUMBERS = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    **dict.fromkeys(("frequency_penalty", "presence_penalty"), (-2.0, 2.0)),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty"), (0.1, 2.0)),
}
_LARGEST = (1 << 63) - 1
_TOKEN = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class RequestLimits:
    """What a request may be at most, and what is not done for it."""

    depth: int | None = None
    """Nesting of its JSON."""
    messages: int = 1024
    max_tokens: int = 1 << 20
    n: int = 1
    lacking: frozenset[str] = frozenset()
    """Fields that are refused unless they say nothing."""


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
    model = fields.take("model")
    if not isinstance(model, str) or not model:
        refuse("model", "the name that GET /v1/models lists, as a text", model)
    messages = None
    if chat:
        messages = read_messages(fields.take("messages"), limits.messages, limits.lacking)
    prompt = None if chat else read_prompt(fields.take("prompt"))
    n = _answers(fields, limits)
    lengths = [_length(fields, name, limits) for name in ("max_completion_tokens", "max_tokens")]
    user = given.get("user")
    request = CompletionRequest(
        model=model,
        messages=messages,
        prompt=prompt,
        max_tokens=next((length for length in lengths if length is not None), None),
        n=n,
        stop=_stops(fields.take("stop")),
        stream=fields.flag("stream"),
        wants_usage=_wants_usage(fields),
        salt=fields.text("cache_salt"),
        seed=fields.whole("seed", -_LARGEST - 1, _LARGEST),
        user=user if isinstance(user, str) and user else None,
        numbers=_numbers(fields),
        tools=read_tools(given, fields) if chat else None,
        more=_more(fields, chat),
    )
    fields.require_nothing_left()
    if request.tools and "response_format" in request.more:
        message = "response_format: an answer that may call tools has no other form; leave one of them out"
        raise ApiError(message, "response_format", code="unsupported_value")
    return request


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


def _length(fields: Fields, name: str, limits: RequestLimits) -> int | None:
    length = fields.take(name)
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        refuse(name, "a whole number of tokens, at least 1, or nothing for as many as fit", length)
    if length is not None and length > limits.max_tokens:
        message = f"an answer may have {limits.max_tokens} tokens at most; leave it out for as many as fit"
        raise ApiError(f"{name}: {message}", name)
    return length


def _numbers(fields: Fields) -> dict[str, float]:
    numbers = {
        name: value for name, span in NUMBERS.items() if (value := fields.number(name, *span)) is not None
    }
    repeat = numbers.pop("repeat_penalty", None)  # llama.cpp's name for it
    if repeat is not None and numbers.setdefault("repetition_penalty", repeat) != repeat:
        message = "repeat_penalty and repetition_penalty are names of one setting; leave one of them out"
        raise ApiError(message, "repeat_penalty")
    if (top_k := fields.whole("top_k", -1, 1 << 20)) is not None:
        numbers["top_k"] = top_k
    return numbers


def _wants_usage(fields: Fields) -> bool:
    options = fields.take("stream_options") or {}
    wanted = {"include_usage", "include_obfuscation"}  # the latter pads events, for who listens on the way
    if isinstance(options, dict):
        options = {name: value for name, value in options.items() if value is not None and value is not False}
    if not isinstance(options, dict) or any(options[n] is not True or n not in wanted for n in options):
        refuse("stream_options", "an object with include_usage, true or false", options)
    return "include_usage" in options


def _stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if texts is None:
        return ()
    if not isinstance(texts, list) or len(texts) > MOST_STOPS:
        refuse("stop", f"a text, or a list of up to {MOST_STOPS}", value)
    if not all(isinstance(text, str) and text for text in texts):
        refuse("stop", "texts that are not empty", value)
    return tuple(texts)


def _more(fields: Fields, chat: bool) -> JsonObject:
    """What costs an engine more than a token for every token, or that only some engines do."""
    more: JsonObject = {"logit_bias": _biases(fields.take("logit_bias") or {})}
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


def _biases(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        refuse("logit_bias", f"an object with up to {MOST_BIASES} token ids", value)
    for token, bias in value.items():
        if not _TOKEN.fullmatch(token) or not within(bias, -100, 100):
            refuse("logit_bias", "token ids, each with a number from -100 to 100", {token: bias})
    return value
