"""A response while it comes: the events of a chat's stream, told in those of this API."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.openai_api.fields import JsonObject
from serving.openai_api.responses.answer import ResponseWriter, output_text, scores_of


@dataclass
class _Item:
    """An item of the output that is being written."""

    kind: Literal["reasoning", "message", "call"]
    index: int
    identity: str
    number: int = 0
    """Of a call, among the answer's."""
    call: tuple[str, str] = ("", "")
    """Its own id, and the function's name."""
    text: str = ""
    """Of a call, its arguments."""
    scores: list[JsonObject] = field(default_factory=list)


class ResponseStream:
    """Takes the data of a chat's events, from the first to `[DONE]`."""

    def __init__(self, writer: ResponseWriter) -> None:
        self._writer = writer
        self._sent = 0
        self._output: list[JsonObject] = []
        self._item: _Item | None = None
        self._scores: list[JsonObject] = []
        """Of tokens whose text has not come yet."""
        self._usage: JsonObject | None = None
        self._reason: str | None = None
        self.ended = False

    def event(self, data: bytes) -> bytes:
        """What is sent once this has come: nothing after the end, and the end where it is no chat's event."""
        if self.ended:
            return b""
        sent: list[bytes] = []
        try:
            for event in self._events(data):
                sent.append(self._sse(event))
        except (ValueError, KeyError, TypeError, AttributeError):
            error = {"type": "server_error", "message": "the engine's answer cannot be read"}
            sent.append(self.failed(error))
        return b"".join(sent)

    def failed(self, error: Mapping[str, Any]) -> bytes:
        """The end of a response that will not be whole; `error`: as in `ApiError.body`."""
        if self.ended:
            return b""
        self.ended = True
        begin = [] if self._sent else list(self._begin())
        response = self._writer.response("failed", self._output, None, error)
        return b"".join(map(self._sse, [*begin, {"type": "response.failed", "response": response}]))

    def _events(self, data: bytes) -> Iterator[JsonObject]:
        if not self._sent:
            yield from self._begin()
        if data == b"[DONE]":
            yield from self._end()
            return
        part = json.loads(data)
        if "error" in part:
            response = self._writer.response("failed", self._output, None, part["error"])
            self.ended = True
            yield {"type": "response.failed", "response": response}
            return
        self._usage = part.get("usage") or self._usage
        for choice in part.get("choices") or ():
            yield from self._choice(choice)

    def _begin(self) -> Iterator[JsonObject]:
        for name in ("created", "in_progress"):
            yield {"type": f"response.{name}", "response": self._writer.response("in_progress")}

    def _choice(self, choice: JsonObject) -> Iterator[JsonObject]:
        delta = choice.get("delta") or {}
        self._scores += scores_of(choice)
        if thought := delta.get("reasoning_content"):
            yield from self._text("reasoning", thought)
        if content := delta.get("content"):
            yield from self._text("message", content)
        for call in delta.get("tool_calls") or ():
            yield from self._call(call)
        self._reason = choice.get("finish_reason") or self._reason

    def _end(self) -> Iterator[JsonObject]:
        status = "incomplete" if self._reason == "length" else "completed"
        if self._item is None and not self._output:
            yield from self._open(_Item("message", 0, ""))
        yield from self._close(status)
        response = self._writer.response(status, self._output, self._usage)
        self.ended = True
        yield {"type": f"response.{status}", "response": response}

    def _text(self, kind: Literal["reasoning", "message"], text: str) -> Iterator[JsonObject]:
        if self._item is None or self._item.kind != kind:
            yield from self._close()
            yield from self._open(_Item(kind, len(self._output), ""))
        item = self._item
        assert item is not None
        item.text += text
        where: JsonObject = {"item_id": item.identity, "output_index": item.index, "content_index": 0}
        if kind == "reasoning":
            yield {"type": "response.reasoning_text.delta", **where, "delta": text}
            return
        scores, self._scores = self._scores, []
        item.scores += scores
        yield {"type": "response.output_text.delta", **where, "delta": text, "logprobs": scores}

    def _call(self, call: JsonObject) -> Iterator[JsonObject]:
        """A call comes whole, or its arguments piece by piece."""
        number, function = int(call.get("index") or 0), call.get("function") or {}
        if self._item is None or self._item.kind != "call" or self._item.number != number:
            yield from self._close()
            made = call.get("id") or f"call_{uuid.uuid4().hex[:24]}", str(function.get("name") or "")
            yield from self._open(_Item("call", len(self._output), "", number, made))
        item = self._item
        assert item is not None
        if arguments := function.get("arguments"):
            item.text += arguments
            where: JsonObject = {"item_id": item.identity, "output_index": item.index}
            yield {"type": "response.function_call_arguments.delta", **where, "delta": arguments}

    def _open(self, item: _Item) -> Iterator[JsonObject]:
        self._item = item
        shown = self._written(item, "in_progress")
        item.identity = shown["id"]
        if item.kind != "call":
            shown["content"] = []
        yield {"type": "response.output_item.added", "output_index": item.index, "item": shown}
        if item.kind != "call":
            yield {"type": "response.content_part.added", **self._part(item)}

    def _close(self, status: str = "completed") -> Iterator[JsonObject]:
        """End the item that is open, if one is; `status`: its own."""
        item, self._item = self._item, None
        if item is None:
            return
        where: JsonObject = {"item_id": item.identity, "output_index": item.index}
        if item.kind == "call":
            done: JsonObject = {"name": item.call[1], "arguments": item.text}
            yield {"type": "response.function_call_arguments.done", **where, **done}
        else:
            where["content_index"] = 0
            if item.kind == "message":
                item.scores, self._scores = item.scores + self._scores, []
                told = {**where, "text": item.text, "logprobs": item.scores}
                yield {"type": "response.output_text.done", **told}
            else:
                yield {"type": "response.reasoning_text.done", **where, "text": item.text}
            yield {"type": "response.content_part.done", **self._part(item)}
        self._output.append(self._written(item, status))
        yield {
            "type": "response.output_item.done",
            "output_index": item.index,
            "item": self._output[-1],
        }

    def _part(self, item: _Item) -> JsonObject:
        text: JsonObject = {"type": "reasoning_text", "text": item.text}
        part = output_text(item.text, item.scores) if item.kind == "message" else text
        return {"item_id": item.identity, "output_index": item.index, "content_index": 0, "part": part}

    def _written(self, item: _Item, status: str) -> JsonObject:
        if item.kind == "call":
            return self._writer.call(item.index, *item.call, item.text, status)
        if item.kind == "reasoning":
            return self._writer.reasoning(item.index, item.text, status)
        return self._writer.message(item.index, item.text, item.scores, status)

    def _sse(self, event: JsonObject) -> bytes:
        told = json.dumps({**event, "sequence_number": self._sent}, ensure_ascii=False, separators=(",", ":"))
        self._sent += 1
        return f"event: {event['type']}\ndata: {told}\n\n".encode()
