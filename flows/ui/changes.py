"""What changes something: a form that was posted, by whom, in which role."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from typing import Literal
from urllib.parse import parse_qsl

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Role = Literal["viewer", "operator", "admin"]
Form = Mapping[str, str]
Change = Callable[[Request, Form], Response]
MOST_BYTES, MOST_FIELDS = 65_536, 40


def changing(path: str, change: Change, role: Role) -> Route:
    """A route that accepts POST from whoever has the role; `change` runs in a thread."""

    async def endpoint(request: Request) -> Response:
        require(request, role)
        return await anyio.to_thread.run_sync(change, request, await read_form(request))

    endpoint.__name__ = change.__name__.strip("_")
    return Route(path, endpoint, methods=["POST"])


def require(request: Request, role: Role) -> None:
    """Raises HTTPException 403 unless who asks has the role."""
    if not request.app.state.may(request, role):
        raise HTTPException(403, f"this needs the role {role}")


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form, the last of each name. Raises HTTPException for what is not one."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise HTTPException(415, "expected a form (application/x-www-form-urlencoded)")
    body = await read_body(request, MOST_BYTES)
    if body is None:
        raise HTTPException(413, f"the form is larger than {MOST_BYTES} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError as error:
        raise HTTPException(422, f"the form cannot be read: {error}") from None


async def read_operators_body(request: Request, most_bytes: int, too_large: str) -> bytes:
    """What a program sent with an operator's token. Raises HTTPException 403, and 413 with `too_large`."""
    if not request.app.state.may(request, "operator"):
        raise HTTPException(403, "this needs the token of a user with the role operator")
    body = await read_body(request, most_bytes)
    if body is None:
        raise HTTPException(413, too_large)
    return body


async def read_body(request: Request, most_bytes: int) -> bytes | None:
    """The whole body, or None for a larger one, of which no more is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            return None
    return bytes(body)


def who(request: Request) -> str:
    """Under which name a change is recorded."""
    user = request.scope.get("state", {}).get("user")
    return user.name if user is not None else getpass.getuser()
