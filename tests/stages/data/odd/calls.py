"""Odd calls of tools, and ShareGPT's rows."""

from __future__ import annotations

import json

from tests.stages.backends import templates
from tests.stages.data.odd.rows import (
    ANSWER,
    CALL,
    CALLS,
    FUNCTION,
    RESULT,
    chat,
    shared,
    shared_case,
    tools_case,
    user,
    with_tools,
)

CALLING = [
    tools_case(
        "tools, a call, its result",
        with_tools(CALLS, RESULT, ANSWER),
        (
            'used: user: tools warmth, "Warm in Bo?"; **assistant: c1 warmth{"town": "Bo"};** tool: '
            '"21", of c1; **assistant: "Yes.";**'
        ),
    ),
    tools_case(
        "the older `functions` and `function_call`",
        chat(
            user(),
            {"role": "assistant", "content": None, "function_call": CALL["function"]},
            {"role": "function", "name": "warmth", "content": "21"},
            ANSWER,
            functions=[FUNCTION],
        ),
        (
            'used: user: tools warmth, "Warm in Bo?"; **assistant: call00001 warmth{"town": "Bo"};** '
            'tool: "21", of call00001; **assistant: "Yes.";**'
        ),
    ),
    tools_case(
        "a template without tools",
        with_tools(CALLS, RESULT, ANSWER),
        "run refused: rows.jsonl line 1: the chat template of models/base does not write the",
        template=None,
    ),
    tools_case(
        "a result without a call",
        with_tools(ANSWER, RESULT, ANSWER),
        "row refused: missing_call: message 3 is a result, and no call with the id 'c1'",
    ),
    tools_case(
        "a result of another id",
        with_tools(CALLS, {**RESULT, "tool_call_id": "c2"}, ANSWER),
        "row refused: missing_call: message 3 is a result, and no call with the id 'c2'",
    ),
    tools_case(
        "two calls of one id",
        with_tools({**CALLS, "tool_calls": [CALL, CALL]}),
        "row refused: malformed: the id 'c1' is that of two calls",
    ),
    tools_case(
        "two calls, answered in another order",
        with_tools(
            {**CALLS, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
            {**RESULT, "tool_call_id": "c2"},
            RESULT,
            ANSWER,
        ),
        (
            'used: user: tools warmth, "Warm in Bo?"; **assistant: c1 warmth{"town": "Bo"}, c2 '
            'warmth{"town": "Bo"};** tool: "21", of c2; tool: "21", of c1; **assistant: "Yes.";**'
        ),
    ),
    tools_case(
        "a call that gets no result",
        with_tools({**CALLS, "tool_calls": [CALL, {**CALL, "id": "c2"}]}, RESULT, ANSWER),
        (
            'used: user: tools warmth, "Warm in Bo?"; **assistant: c1 warmth{"town": "Bo"}, c2 '
            'warmth{"town": "Bo"};** tool: "21", of c1; **assistant: "Yes.";**'
        ),
    ),
    tools_case(
        "a call of a tool that is not offered",
        with_tools({**CALLS, "tool_calls": [{**CALL, "function": {"name": "cold", "arguments": "{}"}}]}),
        "row refused: unknown_tool: message 2 calls cold, which is not in tools",
    ),
    tools_case(
        "calls, and no tools in the row",
        chat(user(), CALLS, RESULT, ANSWER),
        (
            'used: user: "Warm in Bo?"; **assistant: c1 warmth{"town": "Bo"};** tool: "21", of c1; '
            '**assistant: "Yes.";**'
        ),
    ),
    tools_case(
        "arguments that are no JSON",
        with_tools({**CALLS, "tool_calls": [{**CALL, "function": {"name": "warmth", "arguments": "{town"}}]}),
        "row refused: malformed: message 2: the arguments of warmth: not valid JSON",
    ),
    tools_case(
        "arguments with NaN",
        with_tools(
            {**CALLS, "tool_calls": [{**CALL, "function": {"name": "warmth", "arguments": '{"t": NaN}'}}]}
        ),
        "row refused: malformed: message 2: the arguments of warmth: Out of range float",
    ),
    tools_case(
        "arguments with an integer of 400 digits",
        with_tools(
            {
                **CALLS,
                "tool_calls": [
                    {**CALL, "function": {"name": "warmth", "arguments": '{"t": ' + "9" * 400 + "}"}}
                ],
            }
        ),
        "row refused: malformed: message 2: the arguments of warmth: Out of range float",
    ),
    tools_case(
        "arguments with an integer of 30 digits",
        with_tools(
            {
                **CALLS,
                "tool_calls": [
                    {**CALL, "function": {"name": "warmth", "arguments": '{"t": ' + "9" * 30 + "}"}}
                ],
            }
        ),
        (
            'used: user: tools warmth, "Warm in Bo?"; **assistant: c1 warmth{"t": '
            "999999999999999999999999999999};**"
        ),
    ),
    tools_case(
        "a null among the arguments of an object",
        with_tools(
            {**CALLS, "tool_calls": [{**CALL, "function": {"name": "warmth", "arguments": {"town": None}}}]}
        ),
        "row refused: malformed: message 2: the arguments of warmth hold a null, which a",
    ),
    tools_case(
        "a result that is an object",
        with_tools(CALLS, {**RESULT, "content": {"celsius": 21}}, ANSWER),
        "row refused: wrong_type: message 3 (tool) is an object, expected a text",
    ),
    tools_case(
        "an empty result",
        with_tools(CALLS, {**RESULT, "content": ""}, ANSWER),
        (
            'used: user: tools warmth, "Warm in Bo?"; **assistant: c1 warmth{"town": "Bo"};** tool: '
            '"", of c1; **assistant: "Yes.";**'
        ),
    ),
    tools_case(
        "`parallel_tool_calls: false`, and two calls",
        with_tools({**CALLS, "tool_calls": [CALL, {**CALL, "id": "c2"}]}, parallel_tool_calls=False),
        "row refused: malformed: message 2 has 2 calls, and parallel_tool_calls is false",
    ),
    tools_case(
        "a tool that is no function",
        with_tools(ANSWER, tools=[{"type": "web_search"}]),
        "row refused: unsupported_field: tool 1 is of type 'web_search', not a function",
    ),
]
SHAREGPT = [
    shared_case(
        "ShareGPT",
        shared(("system", "Be brief."), ("human", "Warm in Bo?"), ("gpt", "Yes.")),
        'used: system: "Be brief."; user: "Warm in Bo?"; **assistant: "Yes.";**',
    ),
    shared_case(
        "ShareGPT with tools",
        shared(
            ("human", "Warm in Bo?"),
            ("function_call", '{"name": "warmth", "arguments": {"town": "Bo"}}'),
            ("observation", "21"),
            ("gpt", "Yes."),
            tools=json.dumps([FUNCTION]),
        ),
        (
            'used: user: tools warmth, "Warm in Bo?"; **assistant: call00001 warmth{"town": "Bo"};** '
            'tool: "21", of call00001; **assistant: "Yes.";**'
        ),
        template=templates.CHATML_TOOLS,
    ),
    shared_case(
        "ShareGPT that begins with the answer",
        shared(("gpt", "Hi."), ("human", "Warm in Bo?"), ("gpt", "Yes.")),
        "row refused: missing_prompt: the row has no user message before the assistant's",
    ),
]
CASES = [*CALLING, *SHAREGPT]
