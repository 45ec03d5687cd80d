"""Embeddings on their way to a client: the mean states of its texts, at unit length as OpenAI's are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from serving.errors import ServingError
from serving.llama_cpp.completions.choice import failure, not_queued
from serving.llama_cpp.model import LlamaModel
from serving.llama_cpp.scheduler import Batcher
from serving.llama_cpp.sequences import Event, Failed
from serving.llama_cpp.states import texts_of
from serving.openai_api.embeddings import EmbeddingsRequest, embedding_list
from serving.openai_api.errors import ApiError


def tokens_of(model: LlamaModel, request: EmbeddingsRequest) -> list[tuple[int, ...]]:
    """The tokens of each text. Raises `ApiError` for one that is too long, or for other dimensions."""
    if request.dimensions not in (None, model.width):
        message = f"dimensions: this model's embeddings have {model.width} numbers; say so, or leave it out"
        raise ApiError(message, "dimensions", code="unsupported_value")
    texts = []
    for index, text in enumerate(request.texts):
        least = model.least_tokens(text)
        if least > model.context_length:
            raise _too_long(index, f"at least {least}", model.context_length)
        tokens = model.tokenize(text, add_special=True)
        if len(tokens) > model.context_length:
            raise _too_long(index, str(len(tokens)), model.context_length)
        if not tokens:
            raise ApiError(f"input[{index}]: this text has no tokens", "input")
        texts.append(tokens)
    return texts


class RunningEmbeddings:
    """The embeddings of one request; its coroutines belong to the loop in which it was made."""

    def __init__(
        self, batcher: Batcher, request: EmbeddingsRequest, name: str, tokens: Sequence[tuple[int, ...]]
    ) -> None:
        """`name`: the served model that is asked; `tokens`: of each text."""
        self._batcher, self._request = batcher, request
        self._tokens = sum(map(len, tokens))
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Event] = loop.create_future()
        self._texts = texts_of(name, tokens, partial(_hand_over, loop, self._ended))

    def submit(self) -> None:
        """Queue them. Raises `ApiError`."""
        try:
            self._batcher.submit(self._texts)
        except ServingError as error:
            raise not_queued(error) from None

    def cancel(self) -> None:
        self._batcher.cancel(self._texts)

    async def whole(self) -> bytes:
        """The answer's JSON text. Raises `ApiError`."""
        event = await self._ended
        if isinstance(event, Failed):
            raise failure(event)
        return await asyncio.to_thread(self._written)

    def _written(self) -> bytes:
        vectors = [unit(mean).tolist() for mean in self._texts.means]
        return embedding_list(self._request.model, vectors, self._tokens, self._request.as_base64)


def unit(mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector of length 1 in its direction. Raises `ApiError` where it has none."""
    length = float(np.linalg.norm(mean.astype(np.float64)))
    if not 0 < length < np.inf:
        message = "the model's states of a text have no direction; its file may be damaged"
        raise ApiError(message, None, 500, "internal")
    return (mean / length).astype(np.float32)


def _too_long(index: int, tokens: str, most: int) -> ApiError:
    message = (
        f"input[{index}]: this model's maximum context length is {most} tokens; this text has {tokens}: "
        "shorten it, or send it in parts"
    )
    return ApiError(message, "input", code="context_length_exceeded")


def _hand_over(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[Event], event: Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(_settle, ended, event)


def _settle(ended: asyncio.Future[Event], event: Event) -> None:
    if not ended.done():  # whoever waited may be gone
        ended.set_result(event)
