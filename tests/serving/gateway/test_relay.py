"""What a client is told when an engine refuses its request."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from serving.gateway.relay import LONGEST_REASON, TokenUsage, opening, refusal

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


class Said:
    """What `opening` needs of an answer."""

    def __init__(self, *parts: bytes, status: int = 200) -> None:
        self.status, self.parts, self.content = status, list(parts), self

    async def readany(self) -> bytes:
        return self.parts.pop(0)

    async def read(self) -> bytes:
        return b"".join(self.parts)


REFUSED = b'data: {"error": {"message": "token_id(s) [9] out of vocabulary", "code": %s}}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("said", "stream", "status"),
    [
        (Said(REFUSED % b"400"), True, 400), (Said(REFUSED % b"503"), True, 503),
        (Said(REFUSED % b'"x"'), True, 500), (Said(REFUSED % b"200"), True, 500),
        (Said(b'data: {"error"'), True, 500), (Said(b"data: {}"), True, 200),
        (Said(b""), True, 200), (Said(b"{", b"}"), False, 200), (Said(b"{", b"}", status=400), True, 400),
    ],
)  # fmt: skip
def test_a_refusal_in_a_streams_first_event_is_one(said: Any, stream: bool, status: int) -> None:
    """vLLM has answered 200 by then, so the gateway waits for the first event before it answers anything."""
    found, body = asyncio.run(opening(said, stream))
    assert found == status
    if status == 400 and stream and body.startswith(b'{"error"'):
        assert str(refusal(body, status)) == "token_id(s) [9] out of vocabulary"


@pytest.mark.parametrize(
    ("pieces", "is_json"),
    [
        (['{"a": ', "[1, 2.5]}"], True), ([' "word" '], True), (["17"], True),
        ([], False), (["{'a': 1}"], False), (['{"a": 1'], False), (['```json\n{"a": 1}\n```'], False),
        (['{"a": 1} {"b": 2}'], False), (["NaN"], False), (["[" * 100_000], False),
    ],
)  # fmt: skip
def test_an_answer_that_is_json_is_one_whole_document(pieces: list[str], is_json: bool) -> None:
    assert TokenUsage(cast(Any, None), texts=pieces).is_json is is_json
