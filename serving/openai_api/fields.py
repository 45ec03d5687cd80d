"""The fields of a request, taken one by one, so that what is left over is what is not supported."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from serving.openai_api.errors import ApiError

JsonObject = dict[str, Any]
"""Of which nothing is known but that it is one."""

IGNORED = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)
"""They change no answer, and an engine might choose a cache or a queue by them."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_k": (0, -1),
    "seed": (-1,),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_format": ("auto",),
    "suffix": ("",),
    **dict.fromkeys(("n", "best_of", "top_p"), (1,)),
    **dict.fromkeys(("repeat_penalty", "repetition_penalty", "length_penalty"), (1,)),
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "top_logprobs", "priority"), (0,)),
    **dict.fromkeys(("min_p", "min_tokens"), (0,)),
    **dict.fromkeys(("stop", "tools", "functions", "documents", "stop_token_ids", "bad_words"), ([],)),
    **dict.fromkeys(("logit_bias", "chat_template_kwargs"), ({},)),
    **dict.fromkeys(("stream", "logprobs", "echo", "ignore_eos", "use_beam_search"), (False,)),
    **dict.fromkeys(("continue_final_message", "include_stop_str_in_output"), (False,)),
    **dict.fromkeys(("return_token_ids", "return_tokens_as_token_ids"), (False,)),
    **dict.fromkeys(("add_generation_prompt", "skip_special_tokens"), (True,)),
    "spaces_between_special_tokens": (True,),
}
"""Values that ask for what is done anyway, of OpenAI's fields and of those that clients of vLLM send."""
REASONS = {
    "chat_template": "templates come from the registry",
    "chat_template_kwargs": "templates come from the registry",
    "priority": "every request has its turn",
    "functions": "`tools` is its present name",
    "function_call": "`tool_choice` is its present name",
}


class Fields:
    """A request's object without what says nothing."""

    def __init__(self, given: JsonObject) -> None:
        self._left = meant(given)

    def refuse_any(self, names: Collection[str]) -> None:
        """Refuse the first of `names` that asks for something, before its value is looked at."""
        for name in sorted(self._left.keys() & names):
            message = f"{name!r} is not supported by the engines here; leave it out"
            raise ApiError(message, name, code="unsupported_parameter")

    def require_nothing_left(self, reasons: Mapping[str, str] = REASONS) -> None:
        """Refuse what nobody has taken; `reasons`: why not, by name."""
        for name in sorted(self._left):
            why = f": {reasons[name]}" if name in reasons else ""
            message = f"{name[:60]!r} is not accepted here{why}; leave it out"
            raise ApiError(message, name[:60], code="unsupported_parameter")

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if not isinstance(value, str | None) or value == "":
            refuse(name, "a text that is not empty", value)
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool | None):
            refuse(name, "true or false", value)
        return bool(value)

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.take(name)
        if value is not None and not within(value, low, high):
            refuse(name, f"a number from {low:g} to {high:g}", value)
        return None if value is None else float(value)

    def whole(self, name: str, low: int, high: int) -> int | None:
        value = self.take(name)
        if value is not None and not (isinstance(value, int) and within(value, low, high)):
            refuse(name, f"a whole number from {low} to {high}", value)
        return value


def meant(given: JsonObject) -> JsonObject:
    """A request's object without null, `NEUTRAL` values and `IGNORED` fields."""
    return {
        name: value
        for name, value in given.items()
        if value is not None and name not in IGNORED and not _neutral(name, value)
    }


def in_known_role(message: Any) -> Any:
    """The message, of the system where it is a developer's: OpenAI's newer name, which no template knows."""
    is_developer = isinstance(message, dict) and message.get("role") == "developer"
    return {**message, "role": "system"} if is_developer else message


def in_known_roles(messages: Any) -> JsonObject:
    """The field `messages` with each as `in_known_role` has it; nothing where they are no list."""
    return {"messages": list(map(in_known_role, messages))} if isinstance(messages, list) else {}


def within(value: Any, low: float, high: float) -> bool:
    """Whether it is a number, and from `low` to `high`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def says_nothing(value: Any) -> bool:
    """Null, an empty text or list, or an object of nothing else: clients send answers back as they came."""
    if isinstance(value, dict):
        return all(map(says_nothing, value.values()))
    return value is None or value in ("", [])


def refuse(name: str, expected: str, found: Any) -> NoReturn:
    """Raise `ApiError` for the field `name`, such as `messages[3].role`."""
    shown = json.dumps(found, ensure_ascii=True)[:60]
    raise ApiError(f"{name}: expected {expected}, found {shown}", param=param_of(name))


def param_of(name: str) -> str:
    """Of `messages[3].role` the field of the request, `messages`."""
    return re.split(r"[\[.]", name)[0][:60]


def _neutral(name: str, value: Any) -> bool:
    # true is not 1 and false is not 0, though Python finds them equal
    return any(
        value is neutral if isinstance(value, bool) or isinstance(neutral, bool) else value == neutral
        for neutral in NEUTRAL.get(name, ())
    )
