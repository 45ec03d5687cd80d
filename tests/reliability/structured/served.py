"""The promoted file asked by the openai client, beside what its evaluation recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jsonschema
import openai

from registry.evaluation_results import Item
from stages.scoring.documents import document
from stages.scoring.tool_calls import Call, calls_in
from tests.reliability.structured.plan import LONGEST, SCHEMA, channel
from tests.reliability.structured.rows import Made, Row
from tests.seconds import seconds


class Served(NamedTuple):
    question: str
    recorded: str
    answer: str
    """Its text, or its calls as JSON."""
    recorded_fits: bool
    fits: bool
    """Whether what was answered is allowed; of an answer that was cut off, not asked."""
    same: bool
    cut_off: bool


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=seconds(60))


def ask_calls(asked: openai.OpenAI, items: Sequence[Item], rows: Mapping[str, Made]) -> list[Served]:
    """Each item's question with the tools of its row."""
    return [_ask_call(asked, item, rows[item["asked"]].row) for item in items]


def ask_orders(asked: openai.OpenAI, items: Sequence[Item], rows: Mapping[str, Made]) -> list[Served]:
    """Each item's e-mail, with the schema of an order."""
    return [_ask_order(asked, item, rows[item["asked"]].row) for item in items]


def _ask_call(asked: openai.OpenAI, item: Item, row: Row) -> Served:
    choice = asked.chat.completions.create(
        model=channel("calls"), messages=row["messages"][:-1], tools=row["tools"], temperature=0,
        max_tokens=LONGEST["calls"],
    ).choices[0]  # fmt: skip
    called = [call.function for call in choice.message.tool_calls or ()]
    answered = [Call(function.name, json.loads(function.arguments)) for function in called]
    text, recorded = (choice.message.content or "").strip(), calls_in(item["answer"])
    same = answered == recorded if answered or recorded else text == item["answer"].strip()
    cut_off = choice.finish_reason == "length"
    return Served(
        question=item["asked"],
        recorded=item["answer"],
        answer=text + "".join(json.dumps(call) for call in answered),
        recorded_fits=_offered(recorded, row),
        fits=cut_off or _offered(answered or calls_in(text), row),
        same=same,
        cut_off=cut_off,
    )


def _ask_order(asked: openai.OpenAI, item: Item, row: Row) -> Served:
    choice = asked.chat.completions.create(
        model=channel("orders"), messages=row["messages"][:-1], temperature=0, max_tokens=LONGEST["orders"],
        response_format={"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}},
    ).choices[0]  # fmt: skip
    text, cut_off = choice.message.content or "", choice.finish_reason == "length"
    return Served(
        question=item["asked"],
        recorded=item["answer"],
        answer=text,
        recorded_fits=_fits(item["answer"]),
        fits=cut_off or _fits(text),
        same=text.strip() == item["answer"].strip(),
        cut_off=cut_off,
    )


def _offered(calls: Sequence[Call], row: Row) -> bool:
    """Whether each call is of a tool that the row offers, with arguments that its parameters allow."""
    functions: dict[str, Any] = {tool["function"]["name"]: tool["function"] for tool in row["tools"]}
    return all(
        call.name in functions and _valid(call.arguments, functions[call.name]["parameters"])
        for call in calls
    )


def _fits(text: str) -> bool:
    found = document(text)
    return found is not None and _valid(found[0], SCHEMA)


def _valid(value: Any, schema: Mapping[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))
