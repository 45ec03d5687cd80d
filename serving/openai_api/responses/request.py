"""A request for a response, read as the request for a chat's answer that it stands for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from serving.openai_api.body import parse
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import REASONS, Fields, JsonObject, refuse, says_nothing
from serving.openai_api.messages import Message, require_results_answer_calls
from serving.openai_api.request import (
    CompletionRequest,
    RequestLimits,
    read_model,
    require_one_form,
    user_of,
)
from serving.openai_api.response_format import read_schema
from serving.openai_api.responses.items import read_input
from serving.openai_api.settings import (
    MOST_LOGPROBS,
    read_length,
    read_numbers,
    read_seed,
    read_stream_options,
)
from serving.openai_api.tools import FUNCTION_FIELDS, MOST_TOOLS, Tools, function_name, read_tools

LOGPROBS = "message.output_text.logprobs"
_NOTHING_KEPT = "nothing is kept of a response; send the earlier items in `input`"
_REASONS = {
    **REASONS,
    "previous_response_id": _NOTHING_KEPT,
    "conversation": _NOTHING_KEPT,
    "background": "every response is answered at once",
    "prompt": "templates of prompts are not kept here",
    "max_tool_calls": "it is about tools that OpenAI runs, of which there are none here",
    "truncation": "an input that is too long is refused, never cut",
    "reasoning": "how much a model thinks is not set here",
    "n": "a response is one answer",
}
_NEUTRAL = (("background", False), ("truncation", "disabled"))
"""What asks for what is done anyway."""
_NAMES = {"messages": "input", "response_format": "text.format", "max_tokens": "max_output_tokens"}
"""A field of a chat → what it is called here."""


@dataclass(frozen=True)
class ResponseRequest:
    """A request for a response."""

    completion: CompletionRequest
    """What it asks, as a chat."""
    echo: JsonObject
    """What the response says again of it, by its own fields."""


def read_response(raw: bytes, limits: RequestLimits) -> ResponseRequest:
    """The request in `raw`. Raises `ApiError`, in OpenAI's words."""
    given = {
        name: value
        for name, value in parse(raw, limits.depth).items()
        if name == "input" or (not says_nothing(value) and (name, value) not in _NEUTRAL)
    }
    _require_no_memory(given)
    fields = Fields(given)
    fields.refuse_any(limits.lacking - {"n"})
    model = read_model(fields)
    instructions = fields.text("instructions")
    messages: list[Message] = [] if instructions is None else [{"role": "system", "content": instructions}]
    messages += read_input(fields.take("input"), limits.messages, limits.lacking)
    require_results_answer_calls(messages, "input")
    stream = fields.flag("stream")
    completion = CompletionRequest(
        model=model,
        messages=tuple(messages),
        prompt=None,
        max_tokens=read_length(fields, "max_output_tokens", limits.max_tokens),
        n=1,
        stop=(),
        stream=stream,
        wants_usage=True,
        salt=fields.text("cache_salt"),
        seed=read_seed(fields),
        user=user_of(given),
        numbers=read_numbers(fields),
        tools=_tools(given, fields),
        more=_more(fields),
    )
    read_stream_options(fields, stream)  # a response ends with its tokens in any case
    fields.require_nothing_left(_REASONS)
    require_one_form(completion, "text.format")
    return ResponseRequest(completion, _echo(given, completion, instructions))


def in_its_words(error: ApiError) -> ApiError:
    """An engine's refusal of the chat, with the names that its fields have in a request for a response."""
    message = str(error).replace("max_tokens", "max_output_tokens")
    for name, own in _NAMES.items():
        if message.startswith((f"{name}:", f"{name}[", f"{name}.")):
            message = own + message.removeprefix(name)
    told = ApiError(message, _NAMES.get(error.param or "", error.param), error.status, error.code)
    told.retry_after = error.retry_after
    return told


def _require_no_memory(given: JsonObject) -> None:
    if given.get("store") not in (None, False):
        message = "'store' is not accepted here: responses are not kept; send `store: false`, or leave it out"
        raise ApiError(message, "store", code="unsupported_parameter")
    metadata = given.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        refuse("metadata", "an object whose values are texts", metadata)


def _tools(given: JsonObject, fields: Fields) -> Tools | None:
    """What may be called; a function's fields stand in the tool itself here."""
    offered, choice = fields.take("tools"), given.get("tool_choice")
    parallel = given.get("parallel_tool_calls")
    for name in ("tool_choice", "parallel_tool_calls"):
        fields.take(name)
    if offered is not None and not isinstance(offered, list):
        refuse("tools", f"a list of up to {MOST_TOOLS} functions", offered)
    tools = [_function(tool, f"tools[{index}]") for index, tool in enumerate(offered or ())]
    if isinstance(choice, dict):
        names = [tool["function"]["name"] for tool in tools]
        if choice not in [{"type": "function", "name": name} for name in names]:
            expected = "none, auto, required, or {type: function, name} of a function that is offered"
            refuse("tool_choice", expected, choice)
        choice = {"type": "function", "function": {"name": choice["name"]}}
    asked = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}
    return read_tools(asked, Fields(asked))


def _function(tool: Any, where: str) -> JsonObject:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        message = (
            f"{where}: expected {{type: function, name, description, parameters}}; no other tools, such as "
            "those that OpenAI runs, are there to be called here"
        )
        raise ApiError(message, "tools", code="unsupported_value")
    for name in sorted(tool.keys() - FUNCTION_FIELDS - {"type"}):
        if not says_nothing(tool[name]) and tool[name] is not False:
            message = f"{where}.{name[:60]} is not accepted here; leave it out"
            raise ApiError(message, "tools", code="unsupported_parameter")
    function = {name: value for name, value in tool.items() if name in FUNCTION_FIELDS and value is not None}
    function_name(function, where)
    return {"type": "function", "function": function}


def _more(fields: Fields) -> JsonObject:
    """The form of the answer, and what is told of its tokens."""
    included = fields.take("include") or []
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        refuse("include", "a list of names", included)
    if unknown := _others(included):
        message = f"include: {unknown[:60]!r} is not given here; only {LOGPROBS!r} is"
        raise ApiError(message, "include", code="unsupported_value")
    likeliest = fields.whole("top_logprobs", 0, MOST_LOGPROBS)
    if likeliest and not included:
        message = f"top_logprobs: expected {LOGPROBS!r} in `include` with it; or leave it out"
        raise ApiError(message, "top_logprobs")
    more: JsonObject = {"logprobs": True if included else None, "top_logprobs": likeliest}
    more["response_format"] = _format(fields.take("text"))
    return {name: value for name, value in more.items() if value is not None}


def _others(included: Collection[str]) -> str | None:
    return next((name for name in included if name != LOGPROBS), None)


def _format(text: Any) -> JsonObject | None:
    """As an engine gets it; None for plain text."""
    if text is None:
        return None
    if not isinstance(text, dict) or text.keys() - {"format", "verbosity"}:
        refuse("text", "an object with format", text)
    if text.get("verbosity") not in (None, "medium"):
        message = "text.verbosity: how much is said is not set here; leave it out"
        raise ApiError(message, "text", code="unsupported_value")
    form = text.get("format")
    if form in (None, {"type": "text"}):
        return None
    if form == {"type": "json_object"}:
        return {"type": "json_object"}
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        expected = "{type: text}, {type: json_object} or {type: json_schema, name, schema}"
        raise ApiError(f"text.format: expected {expected}", "text", code="unsupported_value")
    schema = {name: value for name, value in form.items() if name != "type"}
    return read_schema(schema, "text.format", "text.format")


def _echo(given: JsonObject, completion: CompletionRequest, instructions: str | None) -> JsonObject:
    return {
        "instructions": instructions,
        "max_output_tokens": completion.max_tokens,
        "metadata": given.get("metadata", {}),
        "parallel_tool_calls": given.get("parallel_tool_calls") is not False,
        "temperature": completion.numbers.get("temperature", 1.0),
        "top_p": completion.numbers.get("top_p", 1.0),
        "text": {"format": given.get("text", {}).get("format") or {"type": "text"}},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": given.get("tools", []),
        "top_logprobs": completion.more.get("top_logprobs", 0),
        "user": completion.user,
    }
