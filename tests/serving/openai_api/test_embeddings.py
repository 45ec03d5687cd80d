"""Requests for embeddings, as the gateway reads them and an engine gets them, and the answer's text."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from serving.gateway.config import Bounds
from serving.gateway.request_policy import limits_of, read_embeddings
from serving.openai_api.embeddings import EmbeddingsRequest, embedding_list
from serving.openai_api.errors import ApiError

ASKED = {"model": "team/mine", "input": "Hi"}


def read(inputs: int = 4, **more: Any) -> EmbeddingsRequest:
    return read_embeddings(json.dumps(ASKED | more).encode(), limits_of(Bounds(inputs=inputs), frozenset()))


def test_what_reaches_an_engine() -> None:
    assert read().body() == {"input": ["Hi"]}
    assert read(input=["a", "b"], encoding_format="float", user="u", dimensions=None).body() == {
        "input": ["a", "b"]
    }
    assert read(encoding_format="base64", dimensions=8).body() == {
        "input": ["Hi"], "encoding_format": "base64", "dimensions": 8,
    }  # fmt: skip
    again = read_embeddings(json.dumps(ASKED | read().body()).encode(), limits_of(Bounds(), frozenset()))
    assert again.texts == ("Hi",), "an engine reads what the gateway writes"


def test_a_gateway_may_give_none() -> None:
    with pytest.raises(ApiError, match=r"no embeddings are given here") as refused:
        read(inputs=0)
    assert (refused.value.status, refused.value.code) == (404, "not_found")
    with pytest.raises(ApiError, match=r"each tenant has a salt of its own"):
        read(cache_salt="x")
    with pytest.raises(ApiError, match=r"input: expected a text, or a list of 1 to 4 texts"):
        read(input=["a"] * 5)


def test_the_answers_text_ends_with_its_tokens() -> None:
    vectors = [[0.5, -1.0], [0.25, 3.0]]
    plain = embedding_list("base", vectors, 7, as_base64=False)
    assert plain.endswith(b'"usage":{"prompt_tokens":7,"total_tokens":7}}')
    said = json.loads(plain)
    assert [one["embedding"] for one in said["data"]] == vectors
    assert said["model"] == "base"
    packed = json.loads(embedding_list("base", vectors, 7, as_base64=True))["data"]
    assert [list(struct.unpack("<2f", base64.b64decode(one["embedding"]))) for one in packed] == vectors
    with pytest.raises(ValueError, match=r"not JSON compliant"):
        embedding_list("base", [[float("nan")]], 1, as_base64=False)
