"""Answers that are JSON: whether they parse, and whether a schema accepts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.config.metrics import JsonMetric, JsonSchemaMetric
from stages.errors import InvalidInput
from stages.scoring.documents import schema_validator
from stages.scoring.scorer import Scorer

ORDER = {
    "type": "object",
    "properties": {"id": {"type": "string", "pattern": "^A[0-9]+$"}, "n": {"type": "integer", "minimum": 1}},
    "patternProperties": {"^x-": {"type": "string"}},
    "additionalProperties": False,
    "required": ["id"],
}


def accepted(schema: dict[str, Any], answer: str) -> float:
    scorer = Scorer([JsonSchemaMetric(inline=schema)], [["{}"]])
    return scorer.score(answer, ["{}"]).scores["json_schema"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"id": "A1", "n": 2}', 1.0),
        ('{"id": "A1", "x-note": "hi"}', 1.0),
        ('{"id": "A1", "x-note": 3}', 0.0),
        ('{"id": "B1"}', 0.0),
        ('{"id": "A1", "n": 0}', 0.0),
        ('{"id": "A1", "more": 1}', 0.0),
        ('{"n": 2}', 0.0),
        ('Here it is: {"id": "A1"}', 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_what_a_schema_accepts(answer: str, expected: float) -> None:
    assert accepted(ORDER, answer) == expected


def test_an_answer_is_json_or_not() -> None:
    scorer = Scorer([JsonMetric()], [["x"]])
    said = [scorer.score(answer, ["x"]).scores["json_valid"] for answer in ("null", "{}", "{", "[" * 100_000)]
    assert said == [1.0, 1.0, 0.0, 0.0]


def test_a_schema_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text(json.dumps(ORDER))
    assert schema_validator(JsonSchemaMetric(path=str(file))).is_valid({"id": "A1"})


def test_additional_properties_have_a_schema_of_their_own() -> None:
    schema = {"properties": {"a": {}}, "additionalProperties": {"type": "integer"}}
    assert [accepted(schema, text) for text in ('{"a": "x", "b": 1}', '{"b": "x"}')] == [1.0, 0.0]


def test_a_schema_may_refer_to_itself() -> None:
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}
    assert [accepted(tree, text) for text in ("[[], [[]]]", "[[1]]")] == [1.0, 0.0]


def test_a_pattern_of_a_schema_takes_linear_time() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    assert accepted(schema, json.dumps("a" * 50_000 + "!")) == 0.0


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, r"is not a JSON Schema: type: 'objekt' is not valid"),
        ({"$ref": "https://example.com/s.json"}, r"#/\$ref: 'https://example.com/s.json' leaves the schema"),
        ({"$ref": "#/$defs/none"}, r"metric json_schema, inline: .*none"),
        ({"$ref": "#"}, r"refers to itself without end"),
        ({"pattern": "a(?=b)"}, r"#/pattern: .*linear time"),
        ({"properties": {"a": {"patternProperties": {"a(?=b)": {}}}}}, r"#/properties/a/patternProperties: "),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, r"is not supported beside"),
    ],
)
def test_what_is_no_usable_schema_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        schema_validator(JsonSchemaMetric(inline=schema))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, r"cannot be read \(No such file"), ("{", r"is not JSON"), ("[]", r"a JSON Schema is an object")],
)
def test_what_is_no_file_of_a_schema_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidInput, match=rf"metric json_schema, .*order.json.*{message}"):
        schema_validator(JsonSchemaMetric(path=str(file)))


def test_a_property_that_is_called_like_a_keyword_is_a_property() -> None:
    schema = {"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}}
    assert accepted(schema, '{"pattern": "(", "$ref": "x"}') == 1.0
