"""What is answered, in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypedDict

from serving.openai_api.errors import ApiError


class ModelObject(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelObject]


class Choice(TypedDict, total=False):
    index: int
    finish_reason: str | None
    logprobs: dict[str, Any] | None
    text: str
    """Of a text completion."""
    message: dict[str, Any]
    """Of a chat."""
    delta: dict[str, Any]
    """Of a chat's stream."""


class UsageObject(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class CompletionObject(TypedDict, total=False):
    """A completion, or a part of one that is streamed."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: UsageObject


def model_object(name: str, created: int = 0) -> ModelObject:
    """A model as `GET /v1/models` describes it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "tuneline"}


def model_list(models: Iterable[ModelObject]) -> ModelList:
    """The answer to `GET /v1/models`."""
    return {"object": "list", "data": list(models)}


def no_model(name: str) -> ApiError:
    """An engine's answer to a request for a model that it does not have."""
    return ApiError(f"the model {name[:80]!r} is not served here", "model", 404, "model_not_found")
