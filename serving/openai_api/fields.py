"""The fields of a request, taken one by one, so that what is left over is what is not supported."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NoReturn

from serving.openai_api.errors import ApiError

IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
})  # fmt: skip
"""They change no answer, and an engine might choose a cache or a queue by them."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "stream": (False,), "stop": ([],), "seed": (-1,),
    "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},), "echo": (False,), "suffix": ("",),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "verbosity": ("medium",),
    "frequency_penalty": (0,), "presence_penalty": (0,), "repeat_penalty": (1,), "repetition_penalty": (1,),
    "length_penalty": (1,), "top_p": (1,), "top_k": (0, -1), "min_p": (0,), "min_tokens": (0,),
    "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False), "priority": (0,), "documents": ([],),
    "chat_template_kwargs": ({},), "add_generation_prompt": (True,), "continue_final_message": (False,),
    "stop_token_ids": ([],), "bad_words": ([],), "ignore_eos": (False,), "use_beam_search": (False,),
    "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,), "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
}  # fmt: skip
"""Values that ask for what is done anyway, of OpenAI's fields and of those that clients of vLLM send."""
REASONS = {
    "chat_template": "templates come from the registry",
    "chat_template_kwargs": "templates come from the registry",
    "priority": "every request has its turn",
    "tools": "no engine here calls functions",
    "functions": "no engine here calls functions",
}


class Fields:
    """A request's object without what says nothing."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._left = meant(given)

    def refuse_any(self, names: Collection[str]) -> None:
        """Refuse the first of `names` that asks for something, before its value is looked at."""
        for name in sorted(self._left.keys() & names):
            said = f"{name!r} is not supported by the engines here; leave it out"
            raise ApiError(said, name, code="unsupported_parameter")

    def require_nothing_left(self) -> None:
        """Refuse what nobody has taken."""
        for name in sorted(self._left):
            why = f": {REASONS[name]}" if name in REASONS else ""
            said = f"{name[:60]!r} is not accepted here{why}; leave it out"
            raise ApiError(said, name[:60], code="unsupported_parameter")

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        found = self.take(name)
        if not isinstance(found, str | None) or found == "":
            refuse(name, "a text that is not empty", found)
        return found

    def flag(self, name: str) -> bool:
        found = self.take(name)
        if not isinstance(found, bool | None):
            refuse(name, "true or false", found)
        return bool(found)

    def number(self, name: str, low: float, high: float) -> float | None:
        found = self.take(name)
        if found is not None and not within(found, low, high):
            refuse(name, f"a number from {low:g} to {high:g}", found)
        return None if found is None else float(found)

    def whole(self, name: str, low: int, high: int) -> int | None:
        found = self.take(name)
        if found is not None and not (isinstance(found, int) and within(found, low, high)):
            refuse(name, f"a whole number from {low} to {high}", found)
        return found


def meant(given: dict[str, Any]) -> dict[str, Any]:
    """A request's object without null, `NEUTRAL` values and `IGNORED` fields."""
    return {
        name: value
        for name, value in given.items()
        if value is not None and name not in IGNORED and not _neutral(name, value)
    }


def within(found: Any, low: float, high: float) -> bool:
    """Whether it is a number, and from `low` to `high`."""
    return isinstance(found, int | float) and not isinstance(found, bool) and low <= found <= high


def says_nothing(value: Any) -> bool:
    """Null, an empty text or list, or an object of nothing else: clients send answers back as they came."""
    if isinstance(value, dict):
        return all(map(says_nothing, value.values()))
    return value is None or value in ("", [])


def refuse(name: str, expected: str, found: Any) -> NoReturn:
    """Raise `ApiError` for the field `name`, such as `messages[3].role`."""
    shown = json.dumps(found, ensure_ascii=True)[:60]
    raise ApiError(f"{name}: expected {expected}, found {shown}", param=name.partition("[")[0][:60])


def _neutral(name: str, value: Any) -> bool:
    # true is no 1 and false no 0, though Python finds them equal
    return any(
        value is one if isinstance(value, bool) or isinstance(one, bool) else value == one
        for one in NEUTRAL.get(name, ())
    )
