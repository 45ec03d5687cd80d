"""One question to a judge, over OpenAI's API; tried again where that may help."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stages.errors import StageError

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 5
LONGEST_PAUSE = 60.0
"""Seconds between two attempts, whatever the endpoint asks for."""
CONNECTING = 10.0
"""Seconds that a connection may take, however long an answer may."""
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


@dataclass(frozen=True)
class Endpoint:
    """Where a judge answers."""

    url: str
    model: str
    seconds: float
    key: str | None = field(default=None, repr=False)
    through_proxy: bool = False
    """Whether a proxy of the environment may lie between; never on loopback."""

    def client(self) -> AbstractContextManager[httpx.Client]:
        """A client for any number of threads; it follows no redirects."""
        import httpx  # a gate is installed without it

        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        timeout = httpx.Timeout(self.seconds, connect=min(self.seconds, CONNECTING))
        return httpx.Client(headers=headers, timeout=timeout, trust_env=self.through_proxy)


def ask(
    client: httpx.Client,
    endpoint: Endpoint,
    body: Mapping[str, Any],
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """The text of the reply to a chat completion request.

    Raises `StageError` for a refusal, no answer after some attempts, or an answer of another shape.
    """
    import httpx

    for attempt in itertools.count(1):
        pause = min(LONGEST_PAUSE, 2.0 ** (attempt - 1))
        try:
            answer = client.post(f"{endpoint.url}/chat/completions", json={"model": endpoint.model, **body})
        except httpx.HTTPError as error:
            problem = f"gave no answer: {type(error).__name__}: {error}"
            remedy = "see that it runs there, or correct the metric's url"
            again = not isinstance(error, httpx.ConnectError)
        else:
            if answer.is_success:
                return _content(endpoint, answer)
            problem = f"answered {answer.status_code}: {answer.text[:300]}"
            again, pause = answer.status_code in _AGAIN, _asked_for(answer) or pause
            remedy = "see why it is busy" if again else "correct the metric's url, model or key"
        if not again or attempt == ATTEMPTS:
            tried = f"model {endpoint.model}, {attempt} attempt{'s' if attempt > 1 else ''}"
            told = f"the judge at {endpoint.url} {problem} ({tried}); {remedy}, and run it again: "
            raise StageError(_without_key(f"{told}its replies so far are kept", endpoint))
        wait(min(LONGEST_PAUSE, pause))
    raise AssertionError("unreachable")


def _content(endpoint: Endpoint, answer: httpx.Response) -> str:
    try:
        content = answer.json()["choices"][0]["message"].get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        text = f"the judge at {endpoint.url} answered in another shape than a chat completion's: "
        raise StageError(_without_key(text + answer.text[:300], endpoint)) from None
    return content if isinstance(content, str) else ""


def _asked_for(answer: httpx.Response) -> float | None:
    """Seconds that the endpoint asks to wait."""
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _without_key(message: str, endpoint: Endpoint) -> str:
    return message.replace(endpoint.key, "[key]") if endpoint.key else message
