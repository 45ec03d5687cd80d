"""One answer of a request: from tokens to text that may be sent, and the end of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.errors import Overloaded, ServingError, UnknownModel
from serving.llama_cpp.detokenizer import Text
from serving.llama_cpp.sequences import Answer, Event, Failed, Finished, Token
from serving.openai_api.errors import ApiError
from serving.openai_api.response_format import schema_refused


@dataclass(frozen=True)
class Piece:
    """Some more of an answer; `reason`: why it ended, with the last piece."""

    text: str
    scored: Sequence[Token] = ()
    """The tokens that begin in it, where it was asked how likely they are."""
    reason: str | None = None


class Choice:
    """Takes what the engine's thread tells of one answer."""

    def __init__(self, answer: Answer, stops: Sequence[str], cancel: Callable[[], None]) -> None:
        self.answer = answer
        self.count = 0
        """Tokens of the answer."""
        self._cancel = cancel
        self._text = Text(stops)
        self._ended = False
        self._scored: list[tuple[int, Token]] = []
        """Tokens that were not told yet, and where each begins, in bytes."""
        self._made = self._sent = 0

    def take(self, event: Event) -> Piece | None:
        """What may be sent now; None: nothing. Raises `ApiError` when the engine failed."""
        if self._ended:
            return None
        if isinstance(event, Failed):
            raise failure(event)
        if isinstance(event, Finished):
            self._ended = True
            return Piece(self._text.end(), [token for _, token in self._scored], event.reason)
        self.count += 1
        if event.score is not None:
            self._scored.append((self._made, event))
        self._made += len(event.piece)
        text = self._text.add(event.piece)
        if self._text.stopped:
            self._ended = True
            self._cancel()
            return Piece(text, self._told(text), "stop")
        return Piece(text, self._told(text)) if text else None

    def _told(self, text: str) -> list[Token]:
        """Those of the tokens that begin within what has been sent so far, this text included."""
        self._sent += len(text.encode())
        told = [token for begin, token in self._scored if begin < self._sent]
        self._scored = self._scored[len(told) :]
        return told


def failure(event: Failed) -> ApiError:
    """An answer that ended, in OpenAI's shape."""
    if event.code == "invalid_schema":
        return schema_refused(f"while it was followed: {event.message}")
    return ApiError(event.message, None, 429 if event.code == "overloaded" else 503, event.code)


def not_queued(error: ServingError) -> ApiError:
    """Why the engine takes no answer, in OpenAI's shape."""
    if isinstance(error, UnknownModel):
        return ApiError(str(error), "model", 404, "model_not_found")
    if isinstance(error, Overloaded):
        return ApiError(str(error), None, 429, "overloaded")
    return ApiError(str(error), None, 503, "unavailable")
