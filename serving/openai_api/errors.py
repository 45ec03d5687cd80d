"""An error in OpenAI's shape."""

from __future__ import annotations

from typing import TypedDict


class ErrorObject(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    error: ErrorObject


class ApiError(Exception):
    """A request that gets an error in OpenAI's shape."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = 1
        """Seconds after which it is worth trying again, where it ever is."""

    @property
    def body(self) -> ErrorBody:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
