"""Calls of tools in answers: read in each template's form, compared with what is expected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stages.config.metrics import ToolCallMetric
from stages.scoring.scorer import Scorer
from stages.scoring.tool_calls import Call, as_text, calls_in

WARMTH = Call("warmth", {"town": "Bo"})
TIME = Call("time", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<tool_call>{"name": "warmth", "arguments": {"town": "Bo"}}</tool_call>', [WARMTH]),
        ('<tool_call>\n{"name": "warmth", "arguments": {"town": "Bo"}}\n</tool_call>\n'
         '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>', [WARMTH, TIME]),
        ('Let me look.\n<tool_call>{"name": "time", "arguments": {}}', [TIME]),
        ('<tool_call>{"name": "time", "arguments": {}}<tool_call>{"name": "time", "arguments": {}}',
         [TIME, TIME]),
        ('{"name": "warmth", "parameters": {"town": "Bo"}}', [WARMTH]),
        ('<|python_tag|>{"name": "warmth", "parameters": {"town": "Bo"}}; {"name": "time", "parameters": {}}',
         [WARMTH, TIME]),
        ('[TOOL_CALLS] [{"name": "warmth", "arguments": {"town": "Bo"}}, {"name": "time", "arguments": {}}]',
         [WARMTH, TIME]),
        ('[{"name": "time", "arguments": {}}]', [TIME]),
        ('[TOOL_CALLS]warmth[ARGS]{"town": "Bo"}[TOOL_CALLS]time[CALL_ID]a1[ARGS]{}', [WARMTH, TIME]),
        (json.dumps({"id": "c", "function": {"name": "warmth", "arguments": '{"town": "Bo"}'}}), [WARMTH]),
        ('<think>Which town?</think>\n\n{"name": "time", "arguments": {}}', [TIME]),
        ("Yes, 21 degrees.", []),
        ("", []),
        ('{"name": "Ada", "age": 3}', []),
        ('I would write {"name": "time", "arguments": {}}', []),
        ('{"name": "time", "arguments": {}} and so on', []),
        ('{"name": "time", "arguments": [1]}', []),
        ("[" * 50_000, []),
        ('{"name": "time", "arguments": ' + '{"a": ' * 400 + "1" + "}" * 401, []),
    ],
)  # fmt: skip
def test_the_calls_of_a_text(text: str, expected: list[Call]) -> None:
    assert calls_in(text) == expected


@pytest.mark.parametrize("inside", ['{"name": "time"', "time()", '{"name": 3, "arguments": {}}', ""])
def test_what_is_tagged_and_is_no_call_is_a_call_all_the_same(inside: str) -> None:
    (call,) = calls_in(f"<tool_call>{inside}</tool_call>")
    assert call.name not in ("time", "")


def message(*calls: Call, content: str = "") -> dict[str, Any]:
    functions = [{"name": call.name, "arguments": json.dumps(call.arguments)} for call in calls]
    return {"role": "assistant", "content": content, "tool_calls": [{"function": f} for f in functions]}


def test_a_message_is_read_back() -> None:
    assert calls_in(as_text(message(WARMTH, TIME, content="Let me look."))) == [WARMTH, TIME]
    assert as_text({"role": "assistant", "content": "Yes."}) == "Yes."
    odd = Call("say", {"text": '</tool_call>\n"é"'})
    assert calls_in(as_text(message(Call("say", {"text": 'quote " and é'})))) == [
        Call("say", {"text": 'quote " and é'})
    ]
    assert calls_in(as_text(message(odd))) == [odd], "a tag within an argument is text"


def score(expected: dict[str, Any], answer: str, **settings: Any) -> tuple[float, float, list[float]]:
    reference = as_text(expected)
    scorer = Scorer([ToolCallMetric(**settings)], [[reference]])
    found = scorer.score(answer, [reference])
    return (
        found.scores["tool_call"],
        found.scores["tool_call_name"],
        list(found.counts["tool_call_arguments"]),
    )


ORDER = Call("order", {"item": "mug", "count": 2, "gift": True})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([WARMTH, ORDER], (1, 1, [4, 4, 4])),
        ([ORDER, WARMTH], (1, 1, [4, 4, 4])),
        ([ORDER._replace(arguments={"gift": True, "count": 2.0, "item": " mug"}), WARMTH], (1, 1, [4, 4, 4])),
        ([WARMTH, ORDER._replace(arguments={"item": "mug", "count": 3})], (0, 1, [2, 3, 4])),
        ([WARMTH], (0, 0, [1, 1, 4])),
        ([WARMTH, ORDER, TIME], (0, 0, [4, 5, 4])),
        ([WARMTH, ORDER, ORDER], (0, 0, [4, 7, 4])),
        ([WARMTH._replace(name="heat"), ORDER], (0, 0, [3, 4, 4])),
        ([], (0, 0, [0, 0, 4])),
    ],
)
def test_parallel_calls_are_compared_in_any_order(said: list[Call], expected: Any) -> None:
    assert score(message(WARMTH, ORDER), as_text(message(*said))) == expected


def test_calls_of_one_name_are_paired_so_that_most_arguments_agree() -> None:
    bo, lima = WARMTH, Call("warmth", {"town": "Lima"})
    assert score(message(bo, lima), as_text(message(lima, bo))) == (1, 1, [2, 2, 2])


def test_a_list_in_an_argument_has_an_order() -> None:
    there, back = (message(Call("go", {"by": by})) for by in (["a", "b"], ["b", "a"]))
    assert score(there, as_text(back)) == (0, 1, [2, 2, 2]), "its values are there, not their order"


def test_no_call_where_none_is_expected_is_right() -> None:
    plain = {"role": "assistant", "content": "Yes, 21 degrees."}
    assert score(plain, "No, it is cold.") == (1, 1, [0, 0, 0])
    assert score(plain, as_text(message(WARMTH))) == (0, 0, [0, 1, 0])


def test_values_are_compared_as_the_metric_says() -> None:
    said = as_text(message(Call("warmth", {"town": "bo."})))
    assert score(message(WARMTH), said)[0] == 0
    assert score(message(WARMTH), said, text="normalized")[0] == 1


def test_calls_without_arguments_count_too() -> None:
    assert score(message(TIME), as_text(message(TIME))) == (1, 1, [1, 1, 1])
    assert score(message(TIME), as_text(message(TIME._replace(arguments={"zone": "UTC"})))) == (
        0,
        1,
        [0, 1, 1],
    )
