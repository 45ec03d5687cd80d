"""What an answer's text is made of: a thought, what is said, and calls of functions; also while it comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from serving.openai_api.fields import JsonObject
from serving.openai_api.reasoning import ReasoningFormat


class Calls(Protocol):
    """How an answer calls functions."""

    def read(self, text: str) -> tuple[str, list[JsonObject]]:
        """Content and calls of an answer that has ended."""

    def certain(self, text: str) -> int:
        """Letters of it that no call can begin in, however the answer goes on."""


@dataclass(frozen=True)
class Parts:
    """How an answer is taken apart: by the forms of calls and thoughts that it may have."""

    calls: Calls | None = None
    reasoning: ReasoningFormat | None = None

    def whole(self, text: str) -> tuple[str, str, list[JsonObject]]:
        """Thought, content and calls of an answer that has ended."""
        said, calls = (text, []) if self.calls is None else self.calls.read(text)
        thought, content = ("", said) if self.reasoning is None else self.reasoning.split(said)
        return thought, content, calls

    def certain(self, text: str) -> tuple[str, str]:
        """Of thought and content, what is certain however the answer goes on."""
        said = text if self.calls is None else text[: self.calls.certain(text)]
        return ("", said) if self.reasoning is None else self.reasoning.split(said, ended=False)


class Deltas:
    """What is new of one answer's message with each piece of its text."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._text = ""
        self._thought = self._content = 0
        """Letters that were told."""

    def add(self, text: str) -> Iterator[JsonObject]:
        self._text += text
        yield from self._new(*self._parts.certain(self._text))

    def end(self) -> tuple[list[JsonObject], bool]:
        """What was held back; and whether there are calls, which come when all are there."""
        thought, content, calls = self._parts.whole(self._text)
        new = list(self._new(thought, content))
        new += [{"tool_calls": [{"index": index, **call}]} for index, call in enumerate(calls)]
        return new, bool(calls)

    def _new(self, thought: str, content: str) -> Iterator[JsonObject]:
        if more := thought[self._thought :]:
            yield {"reasoning_content": more}
        if more := content[self._content :]:
            yield {"content": more}
        self._thought, self._content = max(self._thought, len(thought)), max(self._content, len(content))
