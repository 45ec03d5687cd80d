"""How answers are drawn and where they end: settings that several kinds of requests have, within bounds."""

from __future__ import annotations

import re
from typing import Any

from serving.openai_api.errors import ApiError
from serving.openai_api.fields import Fields, refuse, within

MOST_STOPS = 4
MOST_BIASES = 300
MOST_LOGPROBS = 20
NUMBERS = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    **dict.fromkeys(("frequency_penalty", "presence_penalty"), (-2.0, 2.0)),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty"), (0.1, 2.0)),
}
_LARGEST = (1 << 63) - 1
_TOKEN = re.compile(r"[0-9]{1,9}")


def read_length(fields: Fields, name: str, most: int) -> int | None:
    """Tokens that an answer may have; None for as many as fit. Raises `ApiError`."""
    length = fields.take(name)
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        refuse(name, "a whole number of tokens, at least 1, or nothing for as many as fit", length)
    if length is not None and length > most:
        message = f"an answer may have {most} tokens at most; leave it out for as many as fit"
        raise ApiError(f"{name}: {message}", name)
    return length


def read_seed(fields: Fields) -> int | None:
    """Of up to 64 bits. Raises `ApiError`."""
    return fields.whole("seed", -_LARGEST - 1, _LARGEST)


def read_numbers(fields: Fields) -> dict[str, float]:
    """Those that were given, by name; `repetition_penalty` under either of its names. Raises `ApiError`."""
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


def read_stops(value: Any) -> tuple[str, ...]:
    """Texts that end an answer. Raises `ApiError`."""
    texts = [value] if isinstance(value, str) else value
    if texts is None:
        return ()
    if not isinstance(texts, list) or len(texts) > MOST_STOPS:
        refuse("stop", f"a text, or a list of up to {MOST_STOPS}", value)
    if not all(isinstance(text, str) and text for text in texts):
        refuse("stop", "texts that are not empty", value)
    return tuple(texts)


def read_biases(value: Any) -> dict[str, float]:
    """Token id → what is added to its logit. Raises `ApiError`."""
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        refuse("logit_bias", f"an object with up to {MOST_BIASES} token ids", value)
    for token, bias in value.items():
        if not _TOKEN.fullmatch(token) or not within(bias, -100, 100):
            refuse("logit_bias", "token ids, each with a number from -100 to 100", {token: bias})
    return value


def read_stream_options(fields: Fields, stream: bool) -> bool:
    """Whether the answer, where it is a `stream`, is to end with its tokens. Raises `ApiError`."""
    options = fields.take("stream_options") or {}
    wanted = {"include_usage", "include_obfuscation"}  # the latter pads events, for who listens on the way
    if isinstance(options, dict):
        options = {name: value for name, value in options.items() if value is not None and value is not False}
    if not isinstance(options, dict) or any(options[n] is not True or n not in wanted for n in options):
        refuse("stream_options", "an object with include_usage, true or false", options)
    if options and not stream:
        message = "stream_options: expected `stream: true` with it; or leave it out"
        raise ApiError(message, "stream_options")
    return "include_usage" in options
