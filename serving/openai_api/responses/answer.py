"""A response, made of a chat's answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from serving.openai_api.fields import JsonObject

_ERRORS = {"rate_limit_error": "rate_limit_exceeded", "server_error": "server_error"}
"""The type of an error of ours → the code that a failed response may have; other requests were wrong."""


class ResponseWriter:
    """Writes one response. `model`: as it was asked for; `echo`: what is said again of the request."""

    def __init__(self, model: str, echo: JsonObject) -> None:
        self._model, self._echo = model, echo
        self._hex = uuid.uuid4().hex
        self._created = int(time.time())

    def whole(self, completion: JsonObject) -> JsonObject:
        """Of a chat's answer that came in one piece.

        Raises `KeyError`, `IndexError`, `TypeError` or `AttributeError` for what is no chat's answer.
        """
        choice = completion["choices"][0]
        message, cut = choice["message"], choice["finish_reason"] == "length"
        thought, content = message.get("reasoning_content") or "", message.get("content") or ""
        calls = message.get("tool_calls") or ()
        output: list[JsonObject] = []
        if thought:
            output.append(self.reasoning(len(output), thought))
        if content or not (thought or calls):
            output.append(self.message(len(output), content, scores_of(choice)))
        for call in calls:
            function = call["function"]
            item = self.call(len(output), call["id"], function["name"], function["arguments"])
            output.append(item)
        if cut:
            output[-1]["status"] = "incomplete"
        return self.response("incomplete" if cut else "completed", output, completion["usage"])

    def response(
        self,
        status: str,
        output: Sequence[JsonObject] = (),
        usage: JsonObject | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> JsonObject:
        """`usage`: a chat's; `error`: in the shape of `ApiError.body`, without its name."""
        return {
            "id": f"resp_{self._hex}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None if error is None else _error(error),
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "max_tool_calls": None,
            "model": self._model,
            "output": list(output),
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            **self._echo,
        }

    def message(
        self, index: int, text: str, scores: Sequence[JsonObject] = (), status: str = "completed"
    ) -> JsonObject:
        """An item of output, at that place."""
        content = [output_text(text, scores)]
        identity = f"msg_{self._hex}{index}"
        return {
            "id": identity,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def reasoning(self, index: int, text: str, status: str = "completed") -> JsonObject:
        """An item of output, at that place: a thought, which is plain text here."""
        content = [{"type": "reasoning_text", "text": text}]
        return {
            "id": f"rs_{self._hex}{index}",
            "type": "reasoning",
            "summary": [],
            "content": content,
            "status": status,
        }

    def call(
        self, index: int, identity: str, name: str, arguments: str, status: str = "completed"
    ) -> JsonObject:
        """An item of output, at that place; `identity`: the one that its result has to name."""
        return {
            "id": f"fc_{self._hex}{index}",
            "type": "function_call",
            "call_id": identity,
            "name": name,
            "arguments": arguments,
            "status": status,
        }


def output_text(text: str, scores: Sequence[JsonObject] = ()) -> JsonObject:
    """A part of a message; `scores`: how likely its tokens were, as a chat tells it."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(scores)}


def scores_of(choice: JsonObject) -> list[JsonObject]:
    """How likely the tokens of a chat's answer, or of a part of it, were; empty where that was not asked."""
    logprobs: Any = choice.get("logprobs")
    return list(logprobs.get("content") or ()) if isinstance(logprobs, dict) else []


def _usage(usage: JsonObject) -> JsonObject:
    """Tokens of thoughts are not counted apart."""
    details = usage.get("prompt_tokens_details") or {}
    given, made = int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": details.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + made,
    }


def _error(error: Mapping[str, Any]) -> JsonObject:
    code = _ERRORS.get(str(error.get("type")), "invalid_prompt")
    return {"code": code, "message": str(error.get("message"))}
