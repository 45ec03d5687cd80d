"""What a client may ask for, checked by name and by size; what the values mean is the engine's business.

Only names that are known to be harmless pass. An engine understands more than OpenAI's protocol: a salt
for its cache, a priority, a template that it would run, addresses that it would fetch.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from serving.gateway.config import Bounds
from serving.openai_requests import Refused, parse

SHARED = frozenset({
    "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "stream", "stream_options", "stop",
    "seed", "presence_penalty", "frequency_penalty", "repeat_penalty", "repetition_penalty", "logit_bias",
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
})  # fmt: skip
CHAT = SHARED | {
    "messages", "max_completion_tokens", "logprobs", "top_logprobs", "response_format",
}  # fmt: skip
TEXT = SHARED | {"prompt", "logprobs", "echo", "suffix", "best_of"}
_NOT_FORWARDED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
)
"""They change no answer, and an engine might choose a cache or a queue by them."""
_WHY = {
    "chat_template": "templates come from the registry",
    "chat_template_kwargs": "templates come from the registry",
    "cache_salt": "each tenant has a salt of its own",
    "priority": "the gateway shares out the engine",
    "tools": "no engine here calls functions",
}
_NAMED = frozenset({"role", "content", "name"})
_ROLES = ("system", "developer", "user", "assistant")
_FORMATS = ("text", "json_object")
MOST_STOPS = 4
MOST_BIASES = 300
MOST_LOGPROBS = 20
_NUMBERS = {
    "temperature": (0, 2), "top_p": (1e-6, 1), "min_p": (0, 1), "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2), "repeat_penalty": (0.1, 2), "repetition_penalty": (0.1, 2),
}  # fmt: skip
_WHOLE = {"top_k": (-1, 1 << 20), "seed": (-(1 << 63), (1 << 63) - 1)}
_TOKEN = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Asked:
    """A request within bounds."""

    body: dict[str, Any]
    """As the engine gets it, without `model` and salt, which are not the client's to choose."""
    model: str
    chat: bool
    stream: bool
    wants_usage: bool
    """Whether the client asked for the tokens at the end of the stream."""
    size: int
    """Bytes of text in it, which are at least as many as its tokens but for the template's."""
    turns: int
    most: int | None
    """Tokens that all its answers may have together; None: what the context leaves."""
    conversation: str
    """Equal for requests of one conversation, as far as they show it."""


def read(raw: bytes, chat: bool, bounds: Bounds, context_length: int | None = None) -> Asked:
    """The request in `raw`. Raises `Refused`, in OpenAI's words.

    Where it does not limit the answer, `bounds.max_tokens` does if prompt and answer fit into
    `context_length` for certain; otherwise the engine's context limits it.
    """
    given = {name: value for name, value in parse(raw, bounds.depth).items() if value is not None}
    for name in ("tools", "functions"):
        if given.get(name) == []:
            del given[name]
    for name in given:
        if name not in (CHAT if chat else TEXT):
            why = f": {_WHY[name]}" if name in _WHY else ""
            _refuse(f"{name[:60]!r} is not accepted here{why}; leave it out", name, "unsupported_parameter")
    model = given.pop("model", None)
    if not isinstance(model, str):
        _refuse("model: expected the name that GET /v1/models lists, as a text", "model")
    texts, turns = _messages(given, bounds) if chat else _prompt(given)
    _bounded(given, chat)
    _typed(given)
    stream = given.get("stream", False)
    options = given.get("stream_options", {})
    if not isinstance(stream, bool):
        _refuse("stream: expected true or false", "stream")
    if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        _refuse("stream_options: expected an object with include_usage", "stream_options")
    answers = max(_whole(given, name, 1, bounds.n) or 1 for name in ("n", "best_of"))
    limits = [_whole(given, name, 1, bounds.max_tokens) for name in ("max_completion_tokens", "max_tokens")]
    each = next((one for one in limits if one is not None), None)
    size = sum(len(text.encode()) for text in texts)
    if each is None and context_length is not None and size + bounds.max_tokens < context_length:
        each = bounds.max_tokens
        given["max_tokens"] = each
    conversation = given.get("user") or (texts[0] if texts else "")
    body = {name: value for name, value in given.items() if name not in _NOT_FORWARDED}
    if stream:
        body["stream_options"] = {"include_usage": True}
    else:
        body.pop("stream_options", None)
    return Asked(
        body=body, model=model, chat=chat, stream=stream, wants_usage=bool(options.get("include_usage")),
        size=size, turns=turns, most=None if each is None else each * answers,
        conversation=hashlib.sha256(str(conversation).encode()).hexdigest(),
    )  # fmt: skip


def _messages(given: dict[str, Any], bounds: Bounds) -> tuple[list[str], int]:
    """The texts of a chat, the first of a user's before all others, and how many messages it has."""
    messages = given.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= bounds.messages:
        _refuse(f"messages: expected a list of 1 to {bounds.messages} messages", "messages")
    first: list[str] = []
    others: list[str] = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            _refuse(f"{where}: expected an object with role ({', '.join(_ROLES)}) and content", "messages")
        if message.get("content") is None and message["role"] != "assistant":
            _refuse(f"{where}.content: expected a text, or a list of text parts, found null", "messages")
        said = _content(message.get("content"), where) + _text(message, "name", where)
        for name in message.keys() - _NAMED:
            if message[name] not in (None, [], {}):  # clients send an answer back with all that it had
                _refuse(f"{where}.{name[:60]} is not accepted here; leave it out", "messages")
            del message[name]
        (first if message["role"] == "user" and not first else others).append(said)
    return first + others, len(messages)


def _content(found: Any, where: str) -> str:
    """The text of one message; anything that the engine would have to fetch is refused."""
    if found is None or isinstance(found, str):
        return found or ""
    if not isinstance(found, list):
        _refuse(f"{where}.content: expected a text, or a list of text parts", "messages")
    texts = []
    for part in found:
        if not isinstance(part, dict) or set(part) != {"type", "text"} or part["type"] != "text":
            _refuse(f"{where}.content: expected text parts only: {{type: text, text: …}}", "messages")
        if not isinstance(part["text"], str):
            _refuse(f"{where}.content: expected the text of a part as a text", "messages")
        texts.append(part["text"])
    return "\n".join(texts)  # as an engine puts them together


def _prompt(given: dict[str, Any]) -> tuple[list[str], int]:
    prompt = given.get("prompt")
    if not isinstance(prompt, str):
        _refuse("prompt: expected one text", "prompt")
    return [prompt + str(given.get("suffix") or "")], 1


def _bounded(given: dict[str, Any], chat: bool) -> None:
    """What costs an engine more than a token, for every token."""
    stops = given.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        _refuse(f"stop: expected a text, or a list of up to {MOST_STOPS} texts", "stop")
    if not all(isinstance(one, str) and one for one in stops):
        _refuse("stop: expected texts that are not empty", "stop")
    biases = given.get("logit_bias", {})
    if not isinstance(biases, dict) or len(biases) > MOST_BIASES:
        _refuse(f"logit_bias: expected an object with up to {MOST_BIASES} token ids", "logit_bias")
    for token, bias in biases.items():
        if not _TOKEN.fullmatch(token) or not _within(bias, -100, 100):
            _refuse("logit_bias: expected token ids, each with a number from -100 to 100", "logit_bias")
    if chat and not isinstance(given.get("logprobs", False), bool):
        _refuse("logprobs: expected true or false", "logprobs")
    _whole(given, "top_logprobs" if chat else "logprobs", 0, MOST_LOGPROBS)
    wanted = given.get("response_format", {"type": "text"})
    if not isinstance(wanted, dict) or set(wanted) != {"type"} or wanted["type"] not in _FORMATS:
        _refuse(
            f"response_format: expected {{type: {' or '.join(_FORMATS)}}}; a schema to compile could hold up "
            "the engine for other tenants", "response_format", "unsupported_value",
        )  # fmt: skip
    if wanted["type"] == "text":
        given.pop("response_format", None)


def _typed(given: dict[str, Any]) -> None:
    """What an engine would refuse in its own words, or fail at, as vLLM does at numbers too large for C."""
    for name, (low, high) in _NUMBERS.items():
        if name in given and not _within(given[name], low, high):
            _refuse(f"{name}: expected a number from {low:g} to {high:g}, found {_shown(given[name])}", name)
    for name, (lowest, highest) in _WHOLE.items():
        _whole(given, name, lowest, highest)
    if not isinstance(given.get("echo", False), bool):
        _refuse("echo: expected true or false", "echo")
    if not isinstance(given.get("suffix", ""), str):
        _refuse("suffix: expected a text", "suffix")


def _text(holder: dict[str, Any], name: str, where: str) -> str:
    found = holder.get(name)
    if not isinstance(found, str | None):
        _refuse(f"{where}.{name}: expected a text", "messages")
    return found or ""


def _whole(given: dict[str, Any], name: str, low: int, high: int) -> int | None:
    found = given.get(name)
    if found is None:
        return None
    if not isinstance(found, int) or not _within(found, low, high):
        _refuse(f"{name}: expected a whole number from {low} to {high}, found {_shown(found)}", name)
    return found


def _within(found: Any, low: float, high: float) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and low <= found <= high


def _shown(found: Any) -> str:
    return json.dumps(found)[:40]


def _refuse(message: str, param: str, code: str = "invalid_value") -> NoReturn:
    raise Refused(message, param[:60], code=code)
