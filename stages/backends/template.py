"""A chat as the model's own template writes it, tools and calls in the form that the template reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from registry.artifacts import JsonObject
from stages.backends.tokenizer import Tokenizer
from stages.errors import InvalidInput
from stages.formats.messages import DOCUMENT, Message, fields, is_document, tools_of

_OURS = ("tools", "weight")
"""Fields of a message that are not for the template."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
_KEY, _VALUE = "probekey", "probevalue"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Probe",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}, "required": [_KEY]},
    },
}


def render(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The text of a chat. Tokenize it with `add_special_tokens=False`: the template writes its own.

    `add_generation_prompt` appends the header of an assistant turn. Some templates put a system message
    of their own before chats that have none. Tools are those of the first message.
    A document is its text as it is, between the tokens that the tokenizer begins and ends texts with.
    Raises `InvalidInput` without a chat template, or when the template refuses these messages.
    """
    if is_document(messages):
        return _document(tokenizer, messages[0], ended=not add_generation_prompt)
    require_chat_template(tokenizer)
    try:
        chat, tools = for_template(tokenizer, messages)
        options = {"tools": tools} if tools else {}
        text = str(
            tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        )
        text.encode()  # half a character is no text
        return text
    except Exception as error:  # a template is a program: it may divide by zero, call itself for ever, …
        raise InvalidInput(
            f"the chat template refuses the roles {[m['role'] for m in messages]}: {_first_line(error)}"
        ) from error


def text_opening(tokenizer: Tokenizer) -> str:
    """What the tokenizer puts before a text: its BOS token, or nothing."""
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if begins else ""


def _document(tokenizer: Tokenizer, message: Message, ended: bool) -> str:
    if tokenizer.eos_token is None:
        raise InvalidInput(
            f"the tokenizer of {tokenizer.name_or_path} has no token that ends a text (eos_token), so "
            "documents cannot be told apart; name one in its tokenizer_config.json"
        )
    end = tokenizer.eos_token if ended and message["role"] == DOCUMENT else ""
    return f"{text_opening(tokenizer)}{message['content']}{end}"


def for_template(
    tokenizer: Tokenizer, messages: Sequence[Message]
) -> tuple[list[dict[str, Any]], list[JsonObject] | None]:
    """The messages and the tools as the template takes them: arguments of calls as an object or as text, and
    reasoning under the name that it reads."""
    tools = tools_of(messages)
    chat = [{k: v for k, v in fields(message).items() if k not in _OURS} for message in messages]
    template = tokenizer.get_chat_template(tools=tools)
    calling = [message for message in chat if "tool_calls" in message]
    if calling and not _takes_text(tokenizer, template, tools is not None):
        for message in calling:
            message["tool_calls"] = [_decoded(call) for call in message["tool_calls"]]
    for message in chat:
        if "reasoning_content" in message:
            message[_reasoning_name(tokenizer, template)] = message.pop("reasoning_content")
    return chat, tools


def template_of(tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    """The template that renders these messages: a tokenizer may have one of its own for chats with tools."""
    return str(tokenizer.get_chat_template(tools=tools_of(messages)))


def require_chat_template(tokenizer: Tokenizer) -> None:
    """Raise `InvalidInput` where the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise InvalidInput(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template, so chats cannot be rendered; "
            "give one in the recipe: base.chat_template: PATH_OF_A_JINJA_FILE"
        )


@lru_cache(maxsize=16)
def _takes_text(tokenizer: Tokenizer, template: str, with_tools: bool) -> bool:
    """Whether the template wants a call's arguments as JSON text, and garbles or refuses an object.

    transformers asks for an object, and most templates write it by `tojson`; some join it to other texts.
    """
    tools = [_PROBE_TOOL] if with_tools else None
    arguments: JsonObject = {_KEY: _VALUE}
    for form in (arguments, json.dumps(arguments)):
        call = {"id": "probe0001", "type": "function", "function": {"name": "probe", "arguments": form}}
        calling = [
            {"role": "user", "content": "Question"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        result = {"role": "tool", "tool_call_id": "probe0001", "name": "probe", "content": "Result"}
        for chat in ([*calling, result, {"role": "assistant", "content": "Answer"}], calling):
            try:
                text = tokenizer.apply_chat_template(
                    chat, tools=tools, chat_template=template, tokenize=False
                )
            except Exception:  # a template raises anything; here it says that it wants another form
                continue
            if _shows_once(str(text)):
                return form is not arguments
    return False


@lru_cache(maxsize=16)
def _reasoning_name(tokenizer: Tokenizer, template: str) -> str:
    """The field in which the template looks for an answer's reasoning; the usual name where it reads none."""
    for name in _REASONING:
        answer = {"role": "assistant", "content": "Answer", name: _VALUE}
        chat = [{"role": "user", "content": "Question"}, answer]
        try:
            text = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False)
        except Exception:  # a template raises anything; here it says that it wants another name
            continue
        if _VALUE in str(text):
            return name
    return _REASONING[0]


def _shows_once(text: str) -> bool:
    """The arguments stand in the text neither as Python writes an object, nor as JSON within JSON."""
    garbled = (f"'{_KEY}'", f'\\"{_KEY}')
    return _KEY in text and _VALUE in text and not any(form in text for form in garbled)


def _decoded(call: JsonObject) -> JsonObject:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
