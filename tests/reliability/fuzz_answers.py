"""Whether what came back is an answer, or a refusal, that a client of OpenAI's can be given."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import jsonschema
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import ValidationError

from tests.reliability.fuzz_requests import CHAT, CONTEXT, Drawn

REFUSALS = {400, 404, 408, 409, 413, 429}
INSIDE = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|/(?:tmp|home|usr|root|var)/|pydantic|vllm|llama[._]|ggml|jinja"
    r"|torch|starlette|uvicorn|object at 0x|\b[A-Z]\w+(?:Error|Exception)\b|'loc'|<class|assert",
    re.IGNORECASE,
)
"""Words of the programs behind the gateway."""
LONGEST = 600
"""Characters of a reason."""

Usage = tuple[int, int]
"""Tokens of prompt and answer."""


class Wrong(Exception):
    """What is wrong with it."""


def refusal(status: int, body: bytes, tame: bool) -> None:
    """Raises `Wrong`."""
    if status not in REFUSALS:
        raise Wrong(f"status {status}: {_shown(body)}")
    if tame and status != 429:
        raise Wrong(f"refused, though within all bounds: {status} {_shown(body)}")
    _error(_json(body))


def whole(drawn: Drawn, body: bytes) -> Usage:
    """The usage in an answer that came in one piece. Raises `Wrong`."""
    said = _json(body)
    try:
        (ChatCompletion if drawn.route == CHAT else Completion).model_validate(said)
    except ValidationError as error:
        raise Wrong(f"no answer of OpenAI's: {error}") from None
    choices = said["choices"]
    if len(choices) != 1:
        raise Wrong(f"{len(choices)} answers, expected 1")
    words = choices[0]["message"]["content"] if drawn.route == CHAT else choices[0]["text"]
    used = usage(drawn, said.get("usage"))
    finish(drawn, words or "", choices[0]["finish_reason"], used[1])
    _logprobs(drawn, [choices[0]], used[1])
    return used


def streamed(drawn: Drawn, raw: bytes) -> Usage | None:
    """The usage at the end of a stream, where the client wanted it. Raises `Wrong`."""
    events = raw.decode().split("\n\n")
    if events[-1] or any(not one.startswith("data: ") or "\n" in one for one in events[:-1]):
        raise Wrong(f"no stream of events: {_shown(raw)}")
    data = [one.removeprefix("data: ") for one in events[:-1]]
    if not data or data[-1] != "[DONE]" or "[DONE]" in data[:-1]:
        raise Wrong(f"a stream without its end: {_shown(raw[-300:])}")
    said = [_json(one.encode()) for one in data[:-1]]
    for one in said:
        _chunk(drawn, one)
        if "error" in one:  # a schema that became too much
            _error(one)
            return None
    if len({one["id"] for one in said}) != 1:
        raise Wrong("a stream with several ids")
    options = drawn.given.get("stream_options") or {}
    *_, last = said
    used = None
    if options.get("include_usage"):
        if last["choices"]:
            raise Wrong("no usage at the end of the stream, though asked for")
        used = usage(drawn, last.get("usage"))
    elif any(not one["choices"] for one in said):
        raise Wrong("an event that was not asked for")
    choices = [one["choices"][0] for one in said if one["choices"]]
    reasons = [one["finish_reason"] for one in choices if one["finish_reason"]]
    if len(reasons) != 1:
        raise Wrong(f"ended {len(reasons)} times: {reasons}")
    words = [(one["delta"].get("content") if drawn.route == CHAT else one["text"]) or "" for one in choices]
    finish(drawn, "".join(words), reasons[0], used[1] if used else None)
    if used and sum(map(bool, words)) > used[1]:
        raise Wrong(f"{sum(map(bool, words))} pieces of text of {used[1]} tokens")
    if used:
        _logprobs(drawn, choices, used[1])
    return used


def _chunk(drawn: Drawn, said: dict[str, Any]) -> None:
    if "error" in said and (drawn.tame or said["error"].get("code") != "invalid_schema"):
        raise Wrong(f"an error in mid-stream: {_shown(json.dumps(said).encode())}")
    try:
        if drawn.route == CHAT:
            ChatCompletionChunk.model_validate(said)
        else:  # OpenAI's type is that of the whole answer, which has ended
            ended = [one | {"finish_reason": one["finish_reason"] or "stop"} for one in said["choices"]]
            Completion.model_validate(said | {"choices": ended})
    except (ValidationError, KeyError) as error:
        raise Wrong(f"no event of OpenAI's: {error!r}: {_shown(json.dumps(said).encode())}") from None


def usage(drawn: Drawn, said: Any) -> Usage:
    """Raises `Wrong` where it does not add up, or is more than was asked for."""
    if said is None:
        raise Wrong("an answer without usage")
    prompt, answer = said["prompt_tokens"], said["completion_tokens"]
    if said["total_tokens"] != prompt + answer or prompt < 1 or answer < 0 or prompt + answer > CONTEXT:
        raise Wrong(f"usage does not add up: {said}")
    limits = [drawn.given.get(name) for name in ("max_completion_tokens", "max_tokens")]
    most = next((one for one in limits if one is not None), None)
    if most is not None and answer > most:
        raise Wrong(f"{answer} tokens, at most {most} were asked for")
    return prompt, answer


def finish(drawn: Drawn, words: str, reason: str, tokens: int | None) -> None:
    """Raises `Wrong` where the end is not the one that was asked for."""
    stops = drawn.given.get("stop") or []
    found = [one for one in ([stops] if isinstance(stops, str) else stops) if one in words]
    if found:
        raise Wrong(f"the stop {found} is in the answer {words!r}")
    if words and not tokens and tokens is not None:
        raise Wrong(f"text of no tokens: {words!r}")
    if reason not in ("stop", "length"):
        raise Wrong(f"ended because of {reason!r}")
    if reason == "stop" and not stops:
        _fits(drawn, words)


def _fits(drawn: Drawn, words: str) -> None:
    """A whole answer fits the schema that it was asked within. Raises `Wrong`."""
    wanted = drawn.given.get("response_format")
    if drawn.route != CHAT or not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return
    schema = wanted.get("json_schema", {}).get("schema", {"type": "object"})
    try:
        said = json.loads(words)
        if drawn.tame:  # of the others Python's patterns and numbers are not JSON Schema's
            jsonschema.validate(said, schema)
    except (ValueError, jsonschema.ValidationError) as error:
        raise Wrong(f"{words[:100]!r} does not fit {ascii(schema)[:200]}: {str(error)[:200]}") from None


def _logprobs(drawn: Drawn, choices: list[dict[str, Any]], tokens: int) -> None:
    """As many as tokens, where asked for."""
    asked = drawn.given.get("logprobs")
    if asked is None or asked is False:
        if any(one.get("logprobs") for one in choices):
            raise Wrong("log-probabilities that nobody asked for")
        return
    name = "content" if drawn.route == CHAT else "tokens"
    count = sum(len((one.get("logprobs") or {}).get(name) or []) for one in choices)
    if count != tokens and not drawn.given.get("stop"):
        raise Wrong(f"log-probabilities of {count} tokens, the answer has {tokens}")


def _error(said: Any) -> None:
    """OpenAI's shape, with words that are meant for the client."""
    found = said.get("error") if isinstance(said, dict) else None
    if not isinstance(found, dict) or set(found) != {"message", "type", "param", "code"}:
        raise Wrong(f"no error of OpenAI's: {str(said)[:300]}")
    message, code, param = found["message"], found["code"], found["param"]
    if not isinstance(message, str) or not message or len(message) > LONGEST:
        raise Wrong(f"a reason of {len(str(message))} characters: {str(message)[:200]}")
    if inside := INSIDE.search(message):
        raise Wrong(f"a reason that tells of the inside ({inside[0]}): {message[:300]}")
    if (
        not isinstance(found["type"], str)
        or not isinstance(code, str | None)
        or not isinstance(param, str | None)
    ):
        raise Wrong(f"type, code and param have to be texts: {found}")


def _json(body: bytes) -> Any:
    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no JSON")

    try:
        said = json.loads(body, parse_constant=no_number)
        json.dumps(said, ensure_ascii=False).encode()
    except ValueError as error:
        raise Wrong(f"no JSON ({error}): {_shown(body)}") from None
    return said


def _shown(body: bytes) -> str:
    return ascii(body[:300].decode(errors="replace"))
