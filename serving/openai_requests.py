"""OpenAI's chat and text completion requests, within bounds: read, checked, and refused in OpenAI's words.

What would change the answer and is not done here is refused by name, never ignored.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

MOST_BYTES = 1 << 20
MOST_MESSAGES = 1024
MOST_STOPS = 4
_IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""They change nothing in the answer."""
_ROLES = ("system", "user", "assistant")


class Refused(Exception):
    """A request that gets an error in OpenAI's shape."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class Wanted:
    """A request. Numbers are None where it does not say."""

    model: str
    messages: tuple[dict[str, str], ...] | None
    prompt: str | None
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    usage_in_stream: bool
    salt: str | None
    seed: int | None
    numbers: dict[str, float] = field(default_factory=dict)
    """Sampling settings by their name in `serving.llama_model.Sampling`."""


_NUMBERS = {
    "temperature": (0.0, 2.0), "top_p": (1e-6, 1.0), "min_p": (0.0, 1.0), "repeat_penalty": (0.1, 2.0),
    "frequency_penalty": (-2.0, 2.0), "presence_penalty": (-2.0, 2.0),
}  # fmt: skip


def read(body: bytes, chat: bool) -> Wanted:
    """The request in `body`. Raises `Refused`."""
    given = parse(body)
    asked = _Fields(given)
    model = asked.text("model", required=True)
    assert model is not None
    _one_answer(asked)
    messages = _messages(asked.take("messages")) if chat else None
    prompt = None if chat else asked.text("prompt", required=True)
    limits = [asked.whole(name, 1, 1 << 20) for name in ("max_completion_tokens", "max_tokens")]
    stream = asked.flag("stream")
    options = asked.take("stream_options")
    if options is not None and (not isinstance(options, dict) or set(options) - {"include_usage"}):
        _refuse("stream_options", "an object with include_usage", options)
    numbers: dict[str, float] = {
        name: value for name, span in _NUMBERS.items() if (value := asked.number(name, *span)) is not None
    }
    if (top_k := asked.whole("top_k", 0, 1 << 20)) is not None:
        numbers["top_k"] = top_k
    wanted = Wanted(
        model=model, messages=messages, prompt=prompt,
        max_tokens=next((one for one in limits if one is not None), None),
        stop=_stops(asked.take("stop")), stream=stream,
        usage_in_stream=bool(options and options.get("include_usage")),
        salt=asked.text("cache_salt"), seed=asked.whole("seed", 0, (1 << 32) - 2), numbers=numbers,
    )  # fmt: skip
    asked.require_nothing_left()
    return wanted


def parse(body: bytes, deepest: int | None = None) -> dict[str, Any]:
    """A body's JSON object, no key of which stands twice, nested no deeper than `deepest`.

    Raises `Refused`.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused("a key stands twice in one object of the request; expected each once")
        return found

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text[:20]} is no JSON number, or too large")

    def finite(text: str) -> float:
        return found if math.isfinite(found := float(text)) else no_number(text)

    try:
        text = body.decode("utf-8")
        given = json.loads(text, object_pairs_hook=once, parse_constant=no_number, parse_float=finite)
        if "\\u" in text:  # half a surrogate pair is legal in JSON's escapes, but no text
            json.dumps(given, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is not valid JSON text ({error})", code="invalid_json") from None
    if not isinstance(given, dict):
        raise Refused(f"expected a JSON object, found {type(given).__name__}", code="invalid_json")
    if deepest is not None and _deeper(given, deepest):
        raise Refused(f"the body is nested deeper than {deepest} levels", code="invalid_json")
    return given


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)


class _Fields:
    """Takes fields out of a request one by one, so that what is left over is what nobody understands."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._left = {name: value for name, value in given.items() if value is not None}

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def text(self, name: str, required: bool = False) -> str | None:
        found = self.take(name)
        if (found is None and required) or not isinstance(found, str | None) or found == "":
            _refuse(name, "a text", found)
        return found

    def flag(self, name: str) -> bool:
        found = self.take(name)
        if not isinstance(found, bool | None):
            _refuse(name, "true or false", found)
        return bool(found)

    def number(self, name: str, low: float, high: float) -> float | None:
        found = self.take(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
            _refuse(name, f"a number from {low:g} to {high:g}", found)
        return float(found)

    def whole(self, name: str, low: int, high: int) -> int | None:
        found = self.take(name)
        if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
            _refuse(name, "a whole number", found)
        if found is not None and not low <= found <= high:
            _refuse(name, f"a whole number from {low} to {high}", found)
        return found

    def require_nothing_left(self) -> None:
        left = [name for name, value in self._left.items() if not _says_nothing(name, value)]
        if left:
            name = sorted(left)[0]
            raise Refused(
                f"{name!r} is not supported here; leave it out", param=name, code="unsupported_parameter"
            )


def _says_nothing(name: str, value: Any) -> bool:
    # `logprobs: 0` asks for those of the answer's own tokens, though 0 equals False
    return name in _IGNORED or value is False or value in ([], {}) or (name, value) == ("top_logprobs", 0)


def _one_answer(asked: _Fields) -> None:
    for name in ("n", "best_of"):
        if asked.whole(name, 0, 1 << 30) not in (None, 1):
            raise Refused(
                f"{name}: one answer for each request here; send it several times",
                name,
                code="unsupported_value",
            )


def _messages(found: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(found, list) or not 0 < len(found) <= MOST_MESSAGES:
        _refuse("messages", f"a list of 1 to {MOST_MESSAGES} messages", found)
    return tuple(_message(one, f"messages[{place}]") for place, one in enumerate(found))


def _message(found: Any, where: str) -> dict[str, str]:
    if not isinstance(found, dict):
        _refuse(where, "an object with role and content", found)
    left = {name for name, value in found.items() if value not in (None, [], {})} - {"role", "content"}
    if left:
        _refuse(where, "role and content only", sorted(left))
    role, content = found.get("role"), found.get("content")
    role = "system" if role == "developer" else role
    if role not in _ROLES:
        _refuse(f"{where}.role", f"one of {', '.join(_ROLES)}", role)
    if isinstance(content, list):
        parts = [one.get("text") for one in content if isinstance(one, dict) and one.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(content) else None
    if not isinstance(content, str):
        _refuse(f"{where}.content", "a text, or a list of text parts", found.get("content"))
    return {"role": role, "content": content}


def _stops(found: Any) -> tuple[str, ...]:
    several = [found] if isinstance(found, str) else found
    if several is None:
        return ()
    if not isinstance(several, list) or len(several) > MOST_STOPS:
        _refuse("stop", f"a text, or up to {MOST_STOPS} of them", found)
    if not all(isinstance(one, str) and one for one in several):
        _refuse("stop", "texts that are not empty", found)
    return tuple(several)


def _refuse(name: str, expected: str, found: Any) -> NoReturn:
    shown = json.dumps(found, ensure_ascii=True)[:60]
    raise Refused(f"{name}: expected {expected}, found {shown}", param=name.partition("[")[0])
