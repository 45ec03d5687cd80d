"""How likely an answer's tokens were, in OpenAI's two shapes: one of chats, one of text completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.sequences import Token
from serving.openai_api.fields import JsonObject


def of_chat(model: LlamaModel, tokens: Sequence[Token]) -> JsonObject:
    """`content`: for each token its text, log-probability and bytes, and those of the likeliest."""
    content = []
    for token in tokens:
        assert token.score is not None
        likeliest = [_entry(_piece(model, other), value) for other, value in token.score.likeliest]
        content.append({**_entry(token.piece, token.score.logprob), "top_logprobs": likeliest})
    return {"content": content, "refusal": None}


def of_text(model: LlamaModel, tokens: Sequence[Token], offset: int) -> JsonObject:
    """Lists, one entry a token; `offset`: letters of the answer before the first."""
    shape: dict[str, list[Any]] = {
        name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    }
    for token in tokens:
        assert token.score is not None
        text = _text(token.piece)
        likeliest = {_text(_piece(model, other)): value for other, value in token.score.likeliest}
        for name, value in zip(shape, (text, token.score.logprob, likeliest, offset), strict=True):
            shape[name].append(value)
        offset += len(text)
    return shape


def _entry(piece: bytes, logprob: float) -> JsonObject:
    return {"token": _text(piece), "logprob": logprob, "bytes": list(piece)}


def _piece(model: LlamaModel, token: int) -> bytes:
    """A special token by its name: as one of the likeliest it would have no text otherwise."""
    return model.piece(token) or model.name_of(token)


def _text(piece: bytes) -> str:
    return piece.decode(errors="replace")
