"""Requests for embeddings, read within limits, and what is answered."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serving.openai_api.body import parse
from serving.openai_api.errors import ApiError
from serving.openai_api.fields import Fields, JsonObject, refuse
from serving.openai_api.request import RequestLimits, read_model

MOST_DIMENSIONS = 1 << 20
_NO_TOKEN_IDS = (
    "input: expected a text or a list of texts, not token ids: another tokenizer's ids would be other words "
    "here (LangChain sends texts with check_embedding_ctx_length=False)"
)


@dataclass(frozen=True)
class EmbeddingsRequest:
    """Texts whose embeddings are asked for."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None
    """None: as many as there are."""
    as_base64: bool
    """Of the float32s, little-endian; else as a list of numbers."""
    salt: str | None

    def body(self) -> JsonObject:
        """As an engine gets it, without `model` and the salt."""
        body: JsonObject = {"input": list(self.texts)}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        if self.as_base64:
            body["encoding_format"] = "base64"
        return body


def read_embeddings(raw: bytes, limits: RequestLimits) -> EmbeddingsRequest:
    """The request in `raw`. Raises `ApiError`, in OpenAI's words."""
    fields = Fields(parse(raw, limits.depth))
    request = EmbeddingsRequest(
        model=read_model(fields),
        texts=_texts(fields.take("input"), limits.inputs),
        dimensions=fields.whole("dimensions", 1, MOST_DIMENSIONS),
        as_base64=_as_base64(fields.take("encoding_format")),
        salt=fields.text("cache_salt"),
    )
    fields.require_nothing_left()
    return request


def embedding_list(model: str, vectors: Sequence[Sequence[float]], tokens: int, as_base64: bool) -> bytes:
    """The answer's JSON text: an embedding for each text, and the tokens of all, which come last."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"object": "list", "data": data, "model": model, "usage": usage}
    return json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _encoded(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _texts(value: Any, most: int) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, int | list) and not isinstance(text, bool) for text in texts):
        raise ApiError(_NO_TOKEN_IDS, "input", code="unsupported_value")
    if not 0 < len(texts) <= most:
        refuse("input", f"a text, or a list of 1 to {most} texts", value)
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            where = f"input[{index}]" if isinstance(value, list) else "input"
            refuse(where, "a text that is not empty", text)
    return tuple(texts)


def _as_base64(value: Any) -> bool:
    if value not in (None, "float", "base64"):
        refuse("encoding_format", "float or base64", value)
    return bool(value == "base64")
