"""Tools, calls and results through the model's own template: written, and the calls learned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stages.backends import chat
from stages.backends.template_check import LeftOut, NotRendered, TemplateCheck
from stages.contract import Parent
from stages.errors import InvalidInput
from tests.stages.backends import templates

WARMTH = {
    "type": "function",
    "function": {
        "name": "warmth",
        "description": "How warm a town is",
        "parameters": {"type": "object", "properties": {"town": {"type": "string", "enum": ["Bo", "Ry"]}}},
    },
}


def call(town: str, number: int = 1, key: str = "call00001") -> dict[str, Any]:
    arguments = json.dumps({"town": town, "in": number})
    return {"id": key, "type": "function", "function": {"name": "warmth", "arguments": arguments}}


USER = {"role": "user", "content": "Warm in Bo?", "tools": json.dumps([WARMTH])}
CALLS = {"role": "assistant", "content": "", "tool_calls": [call("Bo")]}
RESULT = {"role": "tool", "content": "21", "tool_call_id": "call00001", "name": None}
ANSWER = {"role": "assistant", "content": "Yes."}
CHAT = [USER, CALLS, RESULT, ANSWER]


@pytest.fixture
def tokenizer(pico_base: Parent) -> Any:
    return chat.load_tokenizer(pico_base.path)


def learned(tokenizer: Any, messages: list[dict[str, Any]]) -> list[str]:
    text, spans = chat.assistant_spans(tokenizer, messages)
    return [text[start:end] for start, end in spans]


def test_calls_are_learned_and_results_are_not(tokenizer: Any) -> None:
    tokenizer.chat_template = templates.CHATML_TOOLS
    assert TemplateCheck(tokenizer)(CHAT) == LeftOut()
    written = '\n<tool_call>{"name": "warmth", "arguments": {"town": "Bo", "in": 1}}</tool_call><|im_end|>\n'
    assert learned(tokenizer, CHAT) == [written, "Yes.<|im_end|>\n"]
    ids, mask = chat.encode_with_mask(tokenizer, CHAT)
    taught = tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on])
    assert taught == written.rstrip("\n") + "Yes.<|im_end|>"
    assert json.dumps(WARMTH) in chat.render(tokenizer, CHAT)


def test_the_template_of_the_documents_writes_tools(tokenizer: Any) -> None:
    page = (Path(__file__).parents[3] / "docs/bring-your-own.md").read_text("utf-8")
    (tokenizer.chat_template,) = re.findall(r"```jinja\n(.*?)```", page, re.DOTALL)
    chat.require_trainable_template(tokenizer)
    assert TemplateCheck(tokenizer)(CHAT) == LeftOut()
    assert TemplateCheck(tokenizer)([{"role": "system", "content": "S"}, *CHAT]) == LeftOut()
    assert learned(tokenizer, CHAT)[0].startswith('<tool_call>{"name": "warmth", "arguments": {"town": "Bo"')


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (templates.CHATML_TOOLS, '"arguments": {"town": "Bo", "in": 1}}'),
        (templates.SINGLE_CALL, '"parameters": {"town": "Bo", "in": 1}}'),
        (templates.LATE_TOOLS, '{"name": "warmth", "arguments": {"town": "Bo", "in": 1}}call00001'),
        (templates.TEXT_ARGUMENTS, '```json {"town": "Bo", "in": 1} ```'),
    ],
)
def test_arguments_come_in_the_form_that_the_template_reads(
    tokenizer: Any, template: str, written: str
) -> None:
    tokenizer.chat_template = template
    assert TemplateCheck(tokenizer)(CHAT) == LeftOut()
    assert written in chat.render(tokenizer, CHAT)


def test_a_template_of_its_own_for_tools_is_the_one_that_is_looked_at(tokenizer: Any) -> None:
    tokenizer.chat_template = {"default": templates.CHATML, "tool_use": templates.CHATML_TOOLS}
    assert TemplateCheck(tokenizer)(CHAT) == LeftOut()


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        (CHAT, "the tools that a row offers nor tool calls"),
        ([USER, ANSWER], "the tools that a row offers"),
        ([{**USER, "tools": None}, CALLS], "tool calls"),
    ],
)
def test_a_template_without_tools_is_refused_with_what_to_do(
    tokenizer: Any, messages: list[dict[str, Any]], named: str
) -> None:
    tokenizer.chat_template = templates.CHATML
    with pytest.raises(NotRendered, match=rf"does not write {named},.*base\.chat_template"):
        TemplateCheck(tokenizer)(messages)


def test_what_a_template_leaves_out_of_one_row_is_named(tokenizer: Any) -> None:
    tokenizer.chat_template = templates.SINGLE_CALL
    beside = [USER, {**CALLS, "content": "Let me look."}]
    assert TemplateCheck(tokenizer)(beside).parts == ("the content of message 2 (assistant)",)
    several = [USER, {**CALLS, "tool_calls": [call("Bo"), call("Ry", key="call00002")]}]
    with pytest.raises(InvalidInput, match="one call at a time"):
        TemplateCheck(tokenizer)(several)
    tokenizer.chat_template = templates.CHATML_TOOLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    assert TemplateCheck(tokenizer)(several).parts == (
        "tool call 2 of message 2's name",
        "tool call 2 of message 2's arguments",
    )
    tokenizer.chat_template = templates.CHATML_TOOLS.replace("tool | tojson", "tool.function.name")
    assert TemplateCheck(tokenizer)(CHAT).parts == (
        "tool 1's description",
        "the enum of tool 1's parameters",
        "tool 1's parameters",
    )


def test_calls_that_a_template_does_not_mark_would_not_be_learned(tokenizer: Any) -> None:
    tokenizer.chat_template = templates.UNMARKED_CALLS
    found = TemplateCheck(tokenizer)([{**USER, "tools": None}, CALLS])
    assert found.untaught == ("tool call 1 of message 2's name", "tool call 1 of message 2's arguments")


def test_tools_before_the_last_question_need_one_question(tokenizer: Any) -> None:
    tokenizer.chat_template = templates.LATE_TOOLS
    again = [*CHAT, {"role": "user", "content": "And in Ry?"}, ANSWER]
    with pytest.raises(InvalidInput, match=r"message 2 differently.*prepare\.train_on: last"):
        chat.encode_with_mask(tokenizer, again)
    earlier = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in again[:-1]]
    assert learned(tokenizer, [*earlier, ANSWER]) == ["Yes.<|im_end|>"]


def test_an_answer_of_calls_is_judged_as_it_is_written(tokenizer: Any) -> None:
    tokenizer.chat_template = templates.CHATML_TOOLS
    turn = chat.last_turn(tokenizer, [USER, {**CALLS, "content": "Let me look."}])
    assert turn.content.startswith("Let me look.\n<tool_call>")
    assert turn.content.endswith("</tool_call>")
    assert (turn.opening, turn.closing) == ("", "<|im_end|>")
    assert turn.prompt == chat.render(tokenizer, [USER], add_generation_prompt=True)
