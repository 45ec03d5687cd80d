"""What Open WebUI sends to an endpoint of OpenAI's kind, written from its source: `make test-clients`.

Routes, headers and fields are those of `routers/openai.py`, `routers/tasks.py`, `utils/payload.py` and
`utils/middleware.py` in open-webui/open-webui; the words are ours. Its own `metadata` stays with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.seconds import seconds
from tests.serving.gateway.live_gateway import Gateway

pytestmark = pytest.mark.clients
MODEL = "team/mine"
USER = {
    "X-OpenWebUI-User-Name": "Ada%20L",
    "X-OpenWebUI-User-Id": "b7c1",
    "X-OpenWebUI-User-Email": "ada@example.com",
    "X-OpenWebUI-User-Role": "user",
}
"""Forwarded where its administrator wants that."""
CHAT = [
    {"role": "system", "content": "User context: none."},
    {"role": "user", "content": [{"type": "text", "text": "Where shall I stay?"}]},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "tool_search_rooms_post",
        "description": "Find rooms",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Lima"], "description": "Where"}},
            "required": ["city"],
            "additionalProperties": False,  # the model has learned nothing, and would go on naming some
        },
    },
}


@pytest.fixture
def http(gateway: Gateway) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {gateway.keys['mine']}", "Content-Type": "application/json", **USER}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=seconds(60)) as made:
        yield made


def ask(http: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = http.post("chat/completions", content=json.dumps({"model": MODEL, "messages": CHAT, **more}))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def streamed(http: httpx.Client, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The message that its interface puts together, and the usage that it shows."""
    message: dict[str, Any] = {"content": "", "tool_calls": {}}
    usage: dict[str, Any] = {}
    body = {"model": MODEL, "messages": CHAT, "stream": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", "chat/completions", content=json.dumps(body | more)) as answer:
        assert answer.status_code == 200, answer.read()
        assert "text/event-stream" in answer.headers["Content-Type"]
        for line in answer.iter_lines():
            if not line.startswith("data:") or line == "data: [DONE]":
                continue
            part = json.loads(line.removeprefix("data:"))
            usage = part.get("usage") or usage
            for choice in part["choices"][:1]:
                message["content"] += choice["delta"].get("content") or ""
                for call in choice["delta"].get("tool_calls") or []:
                    held = message["tool_calls"].setdefault(call["index"], {**call, "function": {}})
                    for name, text in call["function"].items():
                        held["function"][name] = held["function"].get(name, "") + text
    return message, usage


def test_it_finds_its_models(http: httpx.Client) -> None:
    """As the check of a connection, and then for its list."""
    listed = http.get("models")
    assert listed.status_code == 200
    (model,) = listed.json()["data"]
    assert (listed.json()["object"], model["id"], model["object"]) == ("list", MODEL, "model")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7, "top_p": 0.9, "max_tokens": 12, "seed": 42, "stop": ["\n\n\n"]},
        {"min_p": 0.05, "frequency_penalty": 0.5, "presence_penalty": 0.5, "top_k": 40, "max_tokens": 12},
        {"response_format": {"type": "text"}, "max_tokens": 12},
        {"logit_bias": {}, "max_tokens": 12},
    ],
)
def test_a_chat_is_streamed_with_its_settings(http: httpx.Client, settings: dict[str, Any]) -> None:
    message, usage = streamed(http, **settings)
    assert message["content"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("a title in three to five words, as JSON: {\"title\": …}", {"max_completion_tokens": 1000}),
        ("one to three tags, as JSON: {\"tags\": […]}", {}),
        ("questions that the user may ask next, as JSON: {\"follow_ups\": […]}", {}),
        ("queries for a search, as JSON: {\"queries\": […]}", {}),
        ("one emoji for the answer", {"max_completion_tokens": 4}),
    ],
)  # fmt: skip
def test_its_tasks_beside_a_chat(http: httpx.Client, task: str, more: dict[str, Any]) -> None:
    """Each a chat of its own, of one message that holds the instruction and the history."""
    words = f"### Task:\nGive {task}.\n### Chat History:\n<chat_history>\nUSER: Hi\n</chat_history>"
    answer = ask(
        http, messages=[{"role": "user", "content": words}], stream=False, **{"max_tokens": 20} | more
    )
    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["message"]["role"] == "assistant"


def test_native_calls_and_what_came_of_them(http: httpx.Client) -> None:
    """Calls keep their place in the stream (`index`) when they are sent back, and a content that is empty."""
    message, _ = streamed(http, tools=[TOOL], tool_choice="required", max_tokens=100, seed=1)
    calls = [{**call, "index": index} for index, call in message["tool_calls"].items()]
    assert calls
    assert calls[0]["function"]["name"] == TOOL["function"]["name"]
    assert "city" in json.loads(calls[0]["function"]["arguments"])
    results = [{"role": "tool", "tool_call_id": call["id"], "content": '["Grand"]'} for call in calls]
    history = [*CHAT, {"role": "assistant", "content": message["content"], "tool_calls": calls}, *results]
    after, _ = streamed(http, messages=history, tools=[TOOL], max_tokens=12)
    assert after["content"] or after["tool_calls"]


def test_what_it_shows_when_something_is_not_done(http: httpx.Client) -> None:
    """It shows `error.message`; an effort is sent only where its user has set one."""
    body = {"model": MODEL, "messages": CHAT, "stream": True, "reasoning_effort": "high"}
    refused = http.post("chat/completions", content=json.dumps(body))
    assert refused.status_code == 400
    assert "'reasoning_effort' is not accepted here" in refused.json()["error"]["message"]
