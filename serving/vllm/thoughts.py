"""Thoughts in vLLM's answers, told apart as llama.cpp's engine does it: by what the chat template writes.

`Thoughts` runs in vLLM's own process. Who starts that finds out with `found_in` how the model's template
writes thoughts, and says so in the environment: vLLM's parsers have to be named for each family, and then
leave no way to ask for the text as it came.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject, meant
from serving.openai_api.parts import Deltas, Parts
from serving.openai_api.reasoning import NO_PLACE, ReasoningFormat, reasoning_format
from serving.vllm.middleware import App, Message, Receive, Scope, Send, again, object_in, refuse, whole

VARIABLE = "TUNELINE_THOUGHTS"
_CHAT = ("http", "POST", "/v1/chat/completions")
_AS_TEXT = frozenset({"response_format", "reasoning_format"})
"""With one of these an answer is not taken apart."""


@dataclass(frozen=True)
class Found:
    """How a model writes thoughts; `special`: with tokens whose text vLLM leaves out of answers by itself."""

    form: ReasoningFormat
    special: bool


def found_in(path: Path) -> dict[str, str]:
    """The environment that tells `Thoughts` about the model in the directory `path`; empty where its chat
    template has no place for a thought."""
    settings = _read(path / "tokenizer_config.json")
    template = _template(path, settings)
    if template is None:
        return {}
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    eos, bos = (_text(settings.get(name)) for name in ("eos_token", "bos_token"))

    def render(messages: Any, tools: Any, asking: bool) -> str:
        formatter: Any = Jinja2ChatFormatter(template, eos, bos, add_generation_prompt=asking)
        return str(formatter(messages=list(messages), tools=list(tools) or None).prompt)

    form = reasoning_format(render, [eos] if eos else [])
    if form is None:
        return {}
    tokens = _read(path / "tokenizer.json").get("added_tokens", [])
    special = any(token["special"] and token["content"] in form.begin + form.end for token in tokens)
    return {VARIABLE: json.dumps({"form": asdict(form), "special": special})}


class Thoughts:
    """Gives an answer's thought as `reasoning_content`, and refuses one in a message where the template has
    no place for it. Outside of `Dialect`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._found = None
        if told := os.environ.get(VARIABLE):
            known = json.loads(told)
            self._found = Found(ReasoningFormat(**known["form"]), known["special"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (scope["type"], scope.get("method"), scope.get("path")) != _CHAT:
            await self._app(scope, receive, send)
            return
        body = await whole(receive)
        if body is None:
            return
        if self._found is None:
            if b"reasoning_content" in body and _has_thought(object_in(body)):
                await refuse(send, ApiError(NO_PLACE, "messages", code="unsupported_value"))
                return
        elif (request := object_in(body)) and not meant(request).keys() & _AS_TEXT:
            if self._found.special:
                body = json.dumps({**request, "skip_special_tokens": False}).encode()
            send = _TakenApart(self._found.form, send)
        await self._app(scope, again(body, receive), send)


class _TakenApart:
    """Sends an answer on with thought and content apart, whole or as a stream."""

    def __init__(self, form: ReasoningFormat, send: Send) -> None:
        self._parts, self._send = Parts(reasoning=form), send
        self._start: Message | None = None
        """Of an answer that is whole, until its length is known."""
        self._body = b""
        self._streams = False
        self._deltas: dict[int, Deltas] = {}

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            self._streams = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            if message["status"] == 200 and not self._streams:
                self._start = message
                return
        elif message["type"] == "http.response.body":
            if self._streams:
                message = {**message, "body": self._events(message)}
            elif self._start is not None:
                self._body += message.get("body", b"")
                if not message.get("more_body"):
                    await self._send_whole(self._start)
                return
        await self._send(message)

    async def _send_whole(self, start: Message) -> None:
        answer = object_in(self._body)
        for choice in answer.get("choices", ()):
            message = choice["message"]
            thought, content, _ = self._parts.whole(message.get("content") or "")
            message["content"] = content or (None if message.get("tool_calls") else "")
            if thought:
                message["reasoning_content"] = thought
        body = json.dumps(answer, ensure_ascii=False).encode() if answer else self._body
        headers = [pair for pair in start.get("headers", ()) if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _events(self, message: Message) -> bytes:
        """The events that are whole now; the last one once there is no more."""
        *events, self._body = (self._body + message.get("body", b"")).split(b"\n\n")
        sent = b"".join(self._event(event) + b"\n\n" for event in events)
        return sent if message.get("more_body") else sent + self._body

    def _event(self, event: bytes) -> bytes:
        part = object_in(event.removeprefix(b"data: "))
        if not part.get("choices"):
            return event
        for choice in part["choices"]:
            delta = choice["delta"]
            deltas = self._deltas.setdefault(choice["index"], Deltas(self._parts))
            new = list(deltas.add(delta.pop("content", None) or ""))
            if choice.get("finish_reason"):
                new += deltas.end()[0]
            delta |= _joined(new)
        return b"data: " + json.dumps(part, ensure_ascii=False).encode()


def _joined(deltas: list[JsonObject]) -> dict[str, str]:
    found: dict[str, str] = {}
    for delta in deltas:
        for name, text in delta.items():
            found[name] = found.get(name, "") + text
    return found


def _has_thought(request: Mapping[str, Any]) -> bool:
    messages = request.get("messages")
    many = messages if isinstance(messages, list) else ()
    return any(isinstance(one, dict) and one.get("reasoning_content") for one in many)


def _template(path: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template as transformers would take it: a file of its own before the tokenizer's settings."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _text(token: Any) -> str:
    """A special token of the tokenizer's settings: a text, or an object that has it."""
    return str(token["content"]) if isinstance(token, dict) else token or ""


def _read(file: Path) -> dict[str, Any]:
    return object_in(file.read_bytes()) if file.is_file() else {}
