"""What form an answer is to have: `response_format`, read within bounds.

The bounds are on the schema as it is sent. What one of this size costs to compile and to follow is bounded
by whoever does it (`serving.llama_cpp.structured.constraints`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from serving.openai_api.errors import ApiError
from serving.openai_api.fields import JsonObject, refuse

MOST_SCHEMA_BYTES = 1 << 16
MOST_SCHEMA_VALUES = 2000
"""Objects, lists and plain values in a schema."""
LONGEST_TEXT = 2000
"""Of a constant, a pattern, a name or a description: following a constant of 50,000 took 18 ms a token."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FIELDS = {"name", "description", "schema", "strict"}


def read_format(value: Any) -> JsonObject | None:
    """The format as an engine gets it; None for plain text. Raises `ApiError`."""
    if value is None or value == {"type": "json_object"}:
        return value
    if not isinstance(value, dict) or value.get("type") != "json_schema" or len(value) > 2:
        message = "response_format: expected {type: text}, {type: json_object} or {type: json_schema}"
        raise ApiError(message, "response_format", code="unsupported_value")
    return read_schema(value.get("json_schema"), "response_format.json_schema", "response_format")


def read_schema(wanted: Any, where: str, field: str) -> JsonObject:
    """The format that a schema asks for, as an engine gets it.

    `wanted`: an object with the schema and its name, which stands at `where` in its request; `field`: what a
    refusal of the schema itself names. Raises `ApiError`.
    """
    if not isinstance(wanted, dict) or not wanted.keys() <= _FIELDS:
        expected = "an object with name and schema, and perhaps description and strict"
        refuse(where, expected, wanted)
    name, schema = wanted.get("name"), wanted.get("schema")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse(f"{where}.name", "1 to 64 letters, digits, _ or -", name)
    if not isinstance(schema, dict):
        refuse(f"{where}.schema", "a JSON schema, which is an object", schema)
    require_bounded(schema, field)
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def schema_of(given: JsonObject | None) -> JsonObject | None:
    """The JSON schema that the answer has to fit, of what `read_format` returns; None: any text."""
    if given is None:
        return None
    schema: JsonObject = given["json_schema"]["schema"] if "json_schema" in given else {"type": "object"}
    return schema


def schema_refused(why: str, field: str = "response_format") -> ApiError:
    """A schema that is too large, or that no engine here follows to the letter."""
    message = f"{field}: this JSON schema is refused: {why}"
    return ApiError(message, field, code="invalid_schema")


def require_bounded(schema: Any, field: str = "response_format") -> None:
    """Raise `ApiError` for a schema, or a list of what has some, that is too large."""
    if len(json.dumps(schema, ensure_ascii=False).encode(errors="replace")) > MOST_SCHEMA_BYTES:
        raise schema_refused(f"it has more than {MOST_SCHEMA_BYTES} bytes", field)
    count, left = 0, [schema]
    while left:
        value: Any = left.pop()
        count += 1
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            message = f"it has a text of {len(value)} letters; {LONGEST_TEXT} at most are taken"
            raise schema_refused(message, field)
        if isinstance(value, dict):
            if "x-guidance" in value:
                raise schema_refused("'x-guidance' would change how it is followed; leave it out", field)
            left += [*value.values(), *(name for name in value if len(name) > LONGEST_TEXT)]
        elif isinstance(value, list):
            left += value
    if count > MOST_SCHEMA_VALUES:
        raise schema_refused(f"it has {count} values; {MOST_SCHEMA_VALUES} at most are taken", field)
