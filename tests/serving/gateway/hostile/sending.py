"""A well-meaning request, a way to send another, and what a refusal has to look like."""

from __future__ import annotations

import json
from typing import Any

from tests.seconds import seconds
from tests.serving.gateway.raw_http import CHAT, Answer, RecordingGateway, exchange, request

MODEL = "team/mine"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "xylophone-7781?"}], "max_tokens": 8}
RAW = json.dumps(BODY).encode()
SECONDS = seconds(0.6)
"""What a client may take for its headers, its body, and to read."""
CONNECTIONS = 40


def ok(answer: Answer) -> bool:
    return answer.status == 200 and b"Yes." in answer.body


def post(gateway: RecordingGateway, body: bytes | dict[str, Any], path: str = CHAT) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return exchange(gateway.address, request(raw, gateway.keys["mine"], f"POST {path} HTTP/1.1"))


def refused(answer: Answer, status: int = 400) -> dict[str, Any]:
    """Why it was refused; no answer and no trace of the program's inside is in it."""
    assert answer.status == status, answer.raw
    assert b"Traceback" not in answer.raw
    assert b"/serving/" not in answer.raw
    assert len(answer.headers["x-request-id"]) == 32
    return answer.error
