"""Reasoning before an answer: written by a template that has a place for it, else refused by name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.backends import chat
from stages.backends.template_check import LeftOut, TemplateCheck
from stages.contract import Parent
from stages.data import formats
from stages.data.source_row import RowError
from stages.errors import InvalidInput
from tests.stages.backends import templates
from tests.stages.data.prepared import Prepare, Row, jsonl, splits


def asked(number: int, name: str = "reasoning_content") -> list[Row]:
    return [
        {"role": "user", "content": f"Half of {number}?"},
        {"role": "assistant", name: f"{number} over two is {number / 2}.", "content": f"{number / 2}"},
    ]


@pytest.fixture
def thinking(pico_base: Parent, monkeypatch: pytest.MonkeyPatch, tokenizer_read_once: None) -> Any:
    """The base's tokenizer, with a template that writes reasoning after the last question."""
    tokenizer = chat.load_tokenizer(pico_base.path)
    monkeypatch.setattr(tokenizer, "chat_template", templates.REASONING)
    return tokenizer


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_learned_before_the_answer(
    thinking: Any, prepare_from: Prepare, out: Path, tmp_path: Path, name: str
) -> None:
    rows = [{"messages": asked(n, name)} for n in range(20)]
    metrics = prepare_from(jsonl(tmp_path / "rows.jsonl", rows), near_duplicates=None).metrics
    assert metrics["unused_fields"] == {}
    messages = splits(out)["train"][0]["messages"]
    ids, mask = chat.encode_with_mask(thinking, messages)
    taught = thinking.decode([token for token, on in zip(ids, mask, strict=True) if on])
    reason, answer = messages[1]["reasoning_content"], messages[1]["content"]
    assert taught == f"<think>\n{reason}\n</think>\n\n{answer}<|im_end|>"
    turn = chat.last_turn(thinking, messages)
    assert (turn.content, turn.closing) == (f"<think>\n{reason}\n</think>\n\n{answer}", "<|im_end|>")


def test_earlier_reasoning_that_the_template_drops_is_listed(
    thinking: Any, prepare_from: Prepare, tmp_path: Path
) -> None:
    rows = [{"messages": asked(n) + asked(n + 1)} for n in range(20)]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InvalidInput, match=r"message 2 differently.*prepare\.train_on: last"):
        prepare_from(source)
    metrics = prepare_from(source, train_on="last", near_duplicates=None).metrics
    assert metrics["unused_fields"] == {"reasoning_content before the last question": 20}
    assert metrics["rows"]["accepted"] == 20


def test_a_template_without_a_place_for_it_is_refused(prepare_from: Prepare, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "rows.jsonl", [{"messages": asked(n)} for n in range(20)])
    with pytest.raises(InvalidInput, match=r"line 1: .*does not write the reasoning.*\(reasoning_content\)"):
        prepare_from(source)


@pytest.mark.parametrize("name", ["thinking", "reasoning"])
def test_a_template_gets_it_under_the_name_that_it_reads(pico_base: Parent, name: str) -> None:
    tokenizer = chat.load_tokenizer(pico_base.path)
    tokenizer.chat_template = templates.REASONING.replace("m.reasoning_content", f"m.{name}")
    messages = formats.to_messages("messages", {"messages": asked(2)}, None, Counter())
    assert TemplateCheck(tokenizer)(messages) == LeftOut()
    assert "<think>\n2 over two is 1.0.\n</think>" in chat.render(tokenizer, messages)


def test_reasoning_before_a_call_is_written_with_it(pico_base: Parent) -> None:
    tokenizer = chat.load_tokenizer(pico_base.path)
    tokenizer.chat_template = templates.CHATML_TOOLS.replace(
        "+ '\\n' + m.content }}", "+ '\\n' + (m.reasoning_content or '') + m.content }}"
    )
    row = {
        "messages": [asked(1)[0], {"role": "assistant", "thinking": "Look.", "function_call": {"name": "f"}}]
    }
    messages = formats.to_messages("messages", row, None, Counter())
    assert TemplateCheck(tokenizer)(messages) == LeftOut()
    assert (
        chat.last_turn(tokenizer, messages).content
        == 'Look.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    )


def test_two_kinds_of_reasoning_and_reasoning_of_a_user_are_refused() -> None:
    twice = [asked(1)[0], {**asked(1)[1], "thinking": "Hm."}]
    with pytest.raises(RowError, match="message 2 has reasoning_content and thinking"):
        formats.to_messages("messages", {"messages": twice}, None, Counter())
    of_user = [{**asked(1)[0], "thinking": "Hm."}, asked(1)[1]]
    with pytest.raises(RowError, match="message 1 has thinking"):
        formats.to_messages("messages", {"messages": of_user}, None, Counter())
