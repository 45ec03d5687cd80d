"""A GGUF file's own chat template: prompts are written by it, and calls as it writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.structured.tool_calls import CallFormat, call_format
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject
from serving.openai_api.messages import Message
from serving.openai_api.parts import Parts
from serving.openai_api.reasoning import NO_PLACE, ReasoningFormat, reasoning_format
from serving.openai_api.request import CompletionRequest
from serving.openai_api.tools import Tools


class ChatTemplate:
    """Renders chats. Its environment is Jinja's immutable sandbox: the template comes with the file."""

    def __init__(self, template: str, model: LlamaModel) -> None:
        self._model = model
        self._written, self._asking = (
            Jinja2ChatFormatter(
                template, model.special("eos"), model.special("bos"), add_generation_prompt=asking
            )
            for asking in (False, True)
        )

    def prompt(self, messages: Sequence[Message], tools: Tools | None) -> str:
        """The chat with the header of an answer. Raises `ApiError` where the template refuses it."""
        offered = tools.offered if tools else ()
        called = any("tool_calls" in message for message in messages)
        if called or offered:
            messages = self._require_calls("tools" if offered else "messages").messages(messages)
        if self.reasoning is None and any("reasoning_content" in message for message in messages):
            raise ApiError(NO_PLACE, "messages", code="unsupported_value")
        try:
            return self._render(messages, offered, True)
        except Exception as error:  # a template is a program, and may fail in any way
            message = f"the model's chat template refuses these messages: {error}"
            raise ApiError(message, "messages") from None

    def grammar(self, tools: Tools) -> str:
        """What an answer that may call `tools` is made of, for llguidance. Raises `ApiError`."""
        return self._require_calls("tools").grammar(tools, self._special)

    def parts(self, request: CompletionRequest) -> Parts:
        """How answers to the request are taken apart; one that has to fit a schema holds no thought."""
        as_text = not request.chat or request.more.keys() & {"response_format", "reasoning_format"}
        return Parts(self.calls if request.tools else None, None if as_text else self.reasoning)

    def spoken(self, parts: Parts) -> frozenset[int]:
        """Tokens that structure a chat and stand in calls and thoughts: their text is told all the same."""
        calls, thought = self.calls if parts.calls else None, parts.reasoning
        words = "" if calls is None else calls.begin + calls.middle + (calls.between or "") + calls.end
        words += "" if thought is None else thought.begin + thought.end
        return frozenset(token for text, token in self._special.items() if text in words)

    def _require_calls(self, param: str) -> CallFormat:
        if self.calls is not None:
            return self.calls
        raise ApiError(
            f"{param}: this model's chat template has no place for tools and their calls, or writes calls "
            "in a way that is not read here; ask without them, or serve a model whose template has",
            param,
            code="unsupported_value",
        )

    @cached_property
    def calls(self) -> CallFormat | None:
        """How it writes calls; None where it does not."""
        return call_format(self._render, self._ends)

    @cached_property
    def reasoning(self) -> ReasoningFormat | None:
        """How it writes a thought before an answer; None where it has no place for one."""
        return reasoning_format(self._render, self._ends)

    @cached_property
    def _ends(self) -> list[str]:
        return [text for text, token in self._special.items() if self._model.ends(token)]

    @cached_property
    def _special(self) -> Mapping[str, int]:
        return self._model.control_tokens()

    def _render(self, messages: Sequence[Message], tools: Sequence[JsonObject], asking: bool) -> str:
        formatter: Any = self._asking if asking else self._written
        return str(formatter(messages=list(messages), tools=list(tools) or None).prompt)
