"""Calls of functions on the real vLLM, read by its own parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from serving.gateway.app import lacking_of
from serving.gateway.config import EngineSection
from tests.serving.canaries import QUESTIONS, Family
from tests.serving.engine.both_engines import AnyEngine, shared_engine

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Lima"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_tools_pass_where_a_parser_is_named() -> None:
    assert "tools" in lacking_of(EngineSection(engine="vllm", model="m"))
    assert "tools" not in lacking_of(EngineSection(engine="vllm", model="m", tool_call_parser="hermes"))
    with pytest.raises(ValueError, match=r"tool_call_parser"):
        EngineSection(engine="vllm", model="m", tool_call_parser="--plugin /tmp/x.py")


@pytest.mark.vllm
def test_calls_are_read_by_the_named_parser(family: Family, tmp_path: Path) -> None:
    async def work(engine: AnyEngine, client: openai.AsyncOpenAI) -> None:
        adapter = family.canaries[0]
        name = await engine.load_adapter(adapter.digest, adapter.peft)
        body: Any = {"model": name, "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 60}
        body |= {"tools": [TOOL], "temperature": 0}
        chat = client.chat.completions
        (called,) = (await chat.create(**body, tool_choice="required", parallel_tool_calls=False)).choices
        (call,) = called.message.tool_calls or ()
        assert call.type == "function"
        assert call.function.name == "book"
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Lima")
        said = (await chat.create(**body)).choices[0].message
        assert said.content == adapter.answer
        assert not said.tool_calls
        results = [{"role": "tool", "tool_call_id": call.id, "content": "Booked"}]
        after = [*body["messages"], called.message.model_dump(exclude_none=True), *results]
        assert (await chat.create(**body | {"messages": after})).choices[0].message.role == "assistant"

    with shared_engine("vllm", family, tmp_path, tool_call_parser="hermes") as shared:
        shared.run(work)
