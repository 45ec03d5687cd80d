"""What a client is told when an engine refuses its request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.gateway.relay import LONGEST_REASON, refusal

VLLM = {"message": "This model's maximum context length is 8 tokens.", "type": "BadRequestError"}
LIST = "2 validation errors:\n  {'type': 'int_type', 'loc': 'body.messages.0.ChatMessage.content'}"


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (400, VLLM | {"param": "input_tokens", "code": 400},
         (VLLM["message"], "invalid_request_error", "input_tokens", "context_length_exceeded")),
        (400, {"message": "no", "type": "x", "param": None, "code": "mine"},
         ("no", "invalid_request_error", None, "mine")),
        (400, {"message": LIST, "param": 5, "code": 400},
         ("the engine does not take this request", "invalid_request_error", None, "invalid_value")),
        (404, {"message": "no such model", "code": 404},
         ("no such model", "invalid_request_error", None, "model_not_found")),
        (429, {"message": "later", "code": 429}, ("later", "rate_limit_error", None, "overloaded")),
        (400, {"message": "a" * 9999},
         ("a" * LONGEST_REASON, "invalid_request_error", None, "invalid_value")),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_openais_shape(
    status: int, error: dict[str, Any], told: tuple[Any, ...]
) -> None:
    said = refusal(json.dumps({"error": error}).encode(), status)
    assert said.status == status
    assert said.body == {"error": dict(zip(("message", "type", "param", "code"), told, strict=True))}


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b"null", b'{"error": "x"}', b'{"detail": 1}', b"\xff"])
def test_what_is_no_refusal_of_openais_tells_nothing(body: bytes) -> None:
    assert str(refusal(body, 400)) == "the engine does not take this request"
