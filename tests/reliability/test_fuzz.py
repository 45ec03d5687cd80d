"""The trial with requests that try to break an engine, at a reduced size; what breaks has to be found."""

from __future__ import annotations

import json
import subprocess
import sys
from random import Random
from typing import Any

import pytest

from serving.openai_api.settings import NUMBERS
from tests.reliability.fuzz_answers import Wrong, refusal, streamed, whole
from tests.reliability.fuzz_requests import CHAT, FINE, ODD, TEXT, Drawn, request
from tests.seconds import seconds
from tests.serving.engine.both_engines import require_vllm


def run(pytestconfig: pytest.Config, *words: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.reliability.fuzz", *words]
    done = subprocess.run(
        command, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=seconds(300)
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize(
    ("engine", "count"), [("llama.cpp", 150), pytest.param("vllm", 100, marks=pytest.mark.vllm)]
)
def test_no_request_breaks_the_engine(pytestconfig: pytest.Config, engine: str, count: int) -> None:
    if engine == "vllm":
        require_vllm()
    code, report = run(pytestconfig, "--engine", engine, "--requests", str(count), "--seed", "5")
    assert (code, report["findings"]) == (0, 0), report["examples"]
    assert report["200"] > count / 4
    assert report["400"] > count / 5
    assert report["canaries"] > 2, "the other tenants were asked, as often as there was time for it"
    assert report["clients that vanished"]


def test_what_breaks_is_found(pytestconfig: pytest.Config) -> None:
    code, report = run(pytestconfig, "--requests", "120", "--plant")
    assert code == 1
    assert {"answer", "canary", "engine", "ledger", "left over"} <= report["kinds of findings"].keys()


def test_every_field_that_may_be_asked_for_is_drawn() -> None:
    draw, seen = Random(0), set[str]()
    for _ in range(1500):
        seen |= request(draw, "team/a", vllm=True, leaving=False).given.keys()
    assert seen >= NUMBERS.keys() | {"messages", "prompt", "stop", "stream"} | FINE.keys() | ODD.keys()


ASKED = Drawn(CHAT, b"", {"max_tokens": 3, "stop": "no"}, tame=True)
STREAM = Drawn(TEXT, b"", {"stream": True, "stream_options": {"include_usage": True}}, tame=True)
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
SAID = {"role": "assistant", "content": "a b"}
CHOICE = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": SAID}
ANSWER = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": USAGE,
}  # fmt: skip
ERROR = {"message": "too long", "type": "invalid_request_error", "param": None, "code": "invalid_value"}


def choice(**more: Any) -> dict[str, Any]:
    return {"choices": [CHOICE | more]}


def used(prompt: int, answer: int, total: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": total}}


def test_a_good_answer_is_good() -> None:
    assert whole(ASKED, json.dumps(ANSWER).encode()) == (5, 2)
    assert streamed(STREAM, events()) == (5, 2)
    refusal(400, json.dumps({"error": ERROR}).encode(), tame=False)


@pytest.mark.parametrize(
    "more",
    [
        {"usage": None}, used(5, 2, 8), used(0, 2, 2), used(5, 4, 9), used(254, 3, 257), used(5, 0, 5),
        {"id": None}, {"object": "list"}, {"choices": []}, {"choices": [CHOICE, CHOICE]},
        {"created": float("nan")}, choice(finish_reason=None), choice(finish_reason="content_filter"),
        choice(message=None), choice(message=SAID | {"content": "and no more"}),
        choice(message=SAID | {"content": "\ud800"}),
        choice(logprobs={"content": [{"token": "a", "logprob": 0, "top_logprobs": []}], "refusal": None}),
    ],
)  # fmt: skip
def test_a_bad_answer_is_found(more: dict[str, Any]) -> None:
    with pytest.raises(Wrong):
        whole(ASKED, json.dumps(ANSWER | more).encode())


def events(*lost: int, more: str = "") -> bytes:
    def one(text: str, reason: str | None = None) -> dict[str, Any]:
        chosen = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        return {"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [chosen]}

    last = one("") | {"choices": [], "usage": USAGE}
    told = [*map(json.dumps, (one("a"), one(" b"), one("", "stop"), last)), "[DONE]"]
    kept = [f"data: {said}\n\n" for place, said in enumerate(told) if place not in lost]
    return "".join([*kept, more]).encode()


@pytest.mark.parametrize(
    "raw",
    [
        events(2), events(3), events(4), events(0, 1, 2, 3), b"", events(more="data: x"),
        events(more="data: [DONE]\n\n"), events(4, more='data: {"error": {}}\n\ndata: [DONE]\n\n'),
        events().replace(b'"x"', b'"y"', 1), events().replace(b"data: {", b"data:{", 1),
        events().replace(b"null", b"NaN", 1), events().replace(b"[DONE]", b"[DONE"),
        events().replace(b'"text": ""', b'"text": "c"'),
    ],
)  # fmt: skip
def test_a_bad_stream_is_found(raw: bytes) -> None:
    with pytest.raises(Wrong):
        streamed(STREAM, raw)


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (500, {}), (503, {}), (422, {}), (400, {"code": 400}), (400, {"param": 5}), (400, {"trace": "x"}),
        *((400, {"message": said}) for said in ("", "a" * 2000, "ValueError: no", "vLLM", "{'loc': 'x'}")),
    ],
)  # fmt: skip
def test_a_bad_refusal_is_found(status: int, more: dict[str, Any]) -> None:
    with pytest.raises(Wrong):
        refusal(status, json.dumps({"error": ERROR | more}).encode(), tame=False)


def test_a_refusal_of_what_is_within_bounds_is_found() -> None:
    body = json.dumps({"error": ERROR}).encode()
    refusal(429, body, tame=True)
    with pytest.raises(Wrong, match="within all bounds"):
        refusal(400, body, tame=True)
