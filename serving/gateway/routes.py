"""The gateway's few addresses. Of any other, and of what else stands in one, nothing is written down."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from serving.openai_api.body import require_no_query
from serving.openai_api.errors import ApiError

COMPLETIONS = {"/v1/chat/completions": True, "/v1/completions": False}
"""Address → whether it is a chat."""
MODELS, MODEL = "/v1/models", "/v1/models/{id}"
RESPONSES, EMBEDDINGS, FEEDBACK = "/v1/responses", "/v1/embeddings", "/v1/feedback"
METHODS = {
    MODELS: "GET",
    MODEL: "GET",
    **dict.fromkeys((*COMPLETIONS, RESPONSES, EMBEDDINGS, FEEDBACK), "POST"),
}
OTHER = "other"
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


@dataclass(frozen=True)
class Route:
    """Where a request went, in words that are safe to write down."""

    method: str
    """`OTHER` where it is none of HTTP's."""
    path: str
    """One of `METHODS`, or `OTHER`."""
    model: str | None = None
    """What stands for `{id}`: the client's words, not to be written down."""
    query: str = ""
    """Likewise."""

    def require(self) -> None:
        """Raises `ApiError` unless there is such an address, asked by its method and without a query."""
        if self.path == OTHER:
            there = ", ".join(f"{method} {path}" for path, method in METHODS.items())
            raise ApiError(f"no such route; expected one of {there}", None, 404, "not_found")
        if self.method != METHODS[self.path]:
            raise ApiError(f"{self.path} takes {METHODS[self.path]}", None, 405, "method_not_allowed")
        require_no_query(self.query)


def route_of(method: str, target: str) -> Route:
    """`target`: as it stands in the request's first line. Only exact addresses are known."""
    path, _, query = target.partition("?")
    method = method if method in _KNOWN_METHODS else OTHER
    if path.startswith(f"{MODELS}/") and len(path) > len(MODELS) + 1:
        return Route(method, MODEL, unquote(path.removeprefix(f"{MODELS}/"), errors="replace"), query)
    return Route(method, path if path in METHODS else OTHER, None, query)
