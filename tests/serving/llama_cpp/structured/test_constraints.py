"""Answers that have to fit a JSON schema, what such a schema may cost, and what it costs others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import jsonschema
import pytest

from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.structured.constraints import SchemaRefused
from tests.serving.canaries import Family
from tests.serving.llama_cpp.asking import BASE, asked, load, name_of, say
from tests.serving.schema_bombs import Schema, bombs

ORDER: Schema = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Lima"]},
        "guests": {"type": "integer", "minimum": 1, "maximum": 9},
        "when": {"type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "note": {"type": ["string", "null"], "maxLength": 5},
    },
    "required": ["city", "guests", "when"],
    "additionalProperties": False,
}


def fitting(schema: Schema, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "order", "schema": schema, **more}}


async def ask(
    http: httpx.AsyncClient, response_format: Any, tokens: int = 150, **more: Any
) -> httpx.Response:
    body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens, **more}
    return await http.post("/v1/chat/completions", json={**body, "response_format": response_format})


def answer(given: httpx.Response) -> tuple[str, str]:
    assert given.status_code == 200, given.text
    choice = given.json()["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def test_every_answer_fits_however_it_is_drawn(batcher: Batcher) -> None:
    """The base has learned nothing, so each token is a draw from 49,152."""

    async def work(http: httpx.AsyncClient) -> None:
        for seed in range(8):
            text, reason = answer(await ask(http, fitting(ORDER, strict=True), temperature=1.5, seed=seed))
            assert reason == "stop"
            jsonschema.validate(json.loads(text), ORDER)
        text, reason = answer(await ask(http, {"type": "json_object"}, temperature=1, seed=3, stop=["zzz"]))
        assert text.startswith("{")
        assert reason == "length" or isinstance(json.loads(text), dict)

    asked(batcher, work)


def test_an_answer_ends_where_nothing_can_follow(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        given = await ask(http, fitting({"const": "a"}), temperature=0)
        assert answer(given) == ('"a"', "stop")
        assert given.json()["usage"]["completion_tokens"] <= 3
        cut = await ask(http, fitting({"const": "a" * 100}), tokens=4)
        assert answer(cut)[1] == "length"

    asked(batcher, work)


def test_a_stream_is_held_to_its_schema(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        whole = (await ask(http, fitting(ORDER), stream=True, seed=1, temperature=1)).text
        parts = [json.loads(line[6:]) for line in whole.split("\n\n") if line.startswith("data: {")]
        text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
        jsonschema.validate(json.loads(text), ORDER)

    asked(batcher, work)


def test_an_adapter_answers_within_the_schema_and_its_neighbour_as_ever(
    batcher: Batcher, family: Family
) -> None:
    canary = family.canaries[0]
    load(batcher, canary)

    async def work(http: httpx.AsyncClient) -> None:
        schema = {"enum": [canary.answer, "something else entirely"]}
        held, plain = await asyncio.gather(
            ask(http, fitting(schema), model=name_of(canary), temperature=0),
            say(http, name_of(canary)),
        )
        assert json.loads(answer(held)[0]) in schema["enum"]
        assert plain.startswith(canary.answer.split()[0])
        assert plain == await say(http, name_of(canary))

    asked(batcher, work)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("text", "expected {type: text}"),
        ({"type": "regex"}, "expected {type: text}"),
        ({"type": "json_schema"}, "found null"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "name: expected 1 to 64 letters"),
        (fitting({}, grammar="x"), "an object with name and schema"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": []}}, "which is an object"),
        (fitting({"enum": ["x" * 1500] * 50}), "more than 65536 bytes"),
        (fitting({"enum": list(range(6000))}), "6002 values; 2000 at most"),
        (fitting({"const": "x" * 2001}), "a text of 2001 letters"),
        (fitting({"properties": {"x" * 2001: {}}}), "a text of 2001 letters"),
        (fitting({"x-guidance": {}}), "'x-guidance' would change"),
        (fitting({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (fitting({"$ref": "https://example.com/a.json"}), "https://example.com/a.json"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(batcher: Batcher, given: Any, named: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        refused = await ask(http, given)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (400, "response_format"), error
        assert named in error["message"]

    asked(batcher, work)


def test_a_schema_that_becomes_too_much_ends_its_own_answer_only(batcher: Batcher) -> None:
    costly: Schema = {"type": "string", "pattern": "^.*a.{3000}$"}

    async def work(http: httpx.AsyncClient) -> None:
        refused, plain = await asyncio.gather(
            ask(http, fitting(costly), temperature=2, tokens=200), say(http, BASE)
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_schema"), refused.text
        assert "while it was followed" in refused.json()["error"]["message"]
        assert plain == await say(http, BASE)

    asked(batcher, work)


def test_every_bomb_is_refused_with_a_reason_or_answered_rightly(batcher: Batcher) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        before = await say(http, BASE)
        refused = 0
        for name, schema in bombs():
            given = await ask(http, fitting(schema), tokens=12, temperature=1, seed=1)
            if given.status_code == 200:
                text, reason = answer(given)
                if reason == "stop" and "pattern" not in schema:  # Python's patterns are not JSON schema's
                    jsonschema.validate(json.loads(text), schema)
                continue
            assert given.status_code == 400, (name, given.text)
            error = given.json()["error"]
            assert error["param"] == "response_format", (name, error)
            assert len(error["message"]) > 60, (name, error)
            refused += 1
        assert refused > 20
        assert await say(http, BASE) == before

    asked(batcher, work)


def test_a_contradiction_is_refused_before_it_is_asked(model: LlamaModel) -> None:
    try:
        for schema in ({"allOf": [{"type": "string"}, {"type": "integer"}]}, {"enum": []}):
            with pytest.raises(SchemaRefused):
                model.constraints.schema(schema)
    finally:
        model.close()
