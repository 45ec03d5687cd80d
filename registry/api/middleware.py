"""HTTP around the API: who may ask, entity tags, compression, HEAD, and errors as problem documents."""

from __future__ import annotations

import gzip
import hashlib
import ipaddress
import json
import logging
import re
import secrets
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.access.users import Users
from registry.errors import NotFound, RegistryError

log = logging.getLogger("tuneline.registry.api")

IMMUTABLE = "max-age=31536000, immutable"
"""For what a digest names. Without `public`, a shared cache keeps it only for those without a token."""
REVALIDATE = "no-cache"
PROBLEM = "application/problem+json"
OPEN = frozenset({"/healthz", "/readyz"})
"""What needs no token: an orchestrator's probes have none."""
TRIGGER = "/v1/schedules/run"
"""The one thing that is not reading; it needs a schedule's own token, and no other opens it."""
_COMPRESS_FROM = 1024


def problem(
    status: int,
    kind: str,
    detail: str,
    *,
    errors: Iterable[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An RFC 9457 document; `kind` ends up in its `type`."""
    document = {
        "type": f"urn:tuneline:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": list(errors),
    }
    return Response(
        json.dumps(document), status, {"Cache-Control": "no-store", **(headers or {})}, media_type=PROBLEM
    )


def registry_problem(error: RegistryError) -> Response:
    """The registry's own words where the asker can do something about it.

    What only the operator can mend is logged; its message may name paths, which are not for clients.
    """
    kind = re.sub("(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
    if isinstance(error, NotFound):
        return problem(404, kind, str(error))
    log.error("%s", error)
    detail = "the registry cannot answer this now; the log of `tuneline api` says why"
    return problem(503, kind, detail, headers={"Retry-After": "5"})


class TokenGuard:
    """Lets in whoever has the token, or a token of a user; without either, whoever asks by a loopback name.

    The last keeps a web page from reading the registry through a browser on the same machine by giving its
    own name a loopback address (DNS rebinding). As soon as there is a user, only tokens count.
    """

    def __init__(self, app: ASGIApp, token: str | None, users: Users) -> None:
        self._app = app
        self._expected = None if token is None else hashlib.sha256(token.encode()).digest()
        self._users = users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = None
        if scope["type"] == "http":
            refused = await anyio.to_thread.run_sync(self._refused, scope)
        await (refused or self._app)(scope, receive, send)

    def _refused(self, scope: Scope) -> Response | None:
        try:
            open_to_all = self._expected is None and not self._users.exist()
            return self._wrong_host(scope) if open_to_all else self._without_token(scope)
        except RegistryError as error:
            return None if scope["path"] in OPEN else registry_problem(error)

    @staticmethod
    def _wrong_host(scope: Scope) -> Response | None:
        if is_loopback(Headers(scope=scope).get("host", "")):
            return None
        message = "without a token the API answers to loopback names only, such as localhost"
        remedy = "set TUNELINE_API_TOKEN to serve it under another name"
        return problem(421, "wrong-host", f"{message}; {remedy}")

    def _without_token(self, scope: Scope) -> Response | None:
        if scope["path"] in OPEN or scope["path"] == TRIGGER:
            return None
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer":
            # Digests have one length, so the time of the comparison tells nothing about the token.
            digest = hashlib.sha256(token.encode("latin-1")).digest()
            if self._expected is not None and secrets.compare_digest(digest, self._expected):
                return None
            if self._users.of_token(token) is not None:
                return None
        message = "expected the header `Authorization: Bearer TOKEN` with the API's token, or a user's"
        return problem(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


class Conditional:
    """Strong entity tags and 304, HEAD as GET without the body, gzip for who accepts it.

    An entity tag is the sha256 of the document, and says which of the two forms was sent, since a strong tag
    names bytes (RFC 9110, section 8.8.3.3).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head, asked = scope["method"] == "HEAD", Headers(scope=scope)
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                finished = _finish(start, bytes(body), asked)
                await send(start)
                await send({"type": "http.response.body", "body": b"" if head else finished})

        await self._app({**scope, "method": "GET"} if head else scope, receive, collect)


def _finish(start: Message, body: bytes, asked: Headers) -> bytes:
    """Complete the headers in `start`; returns the body to send."""
    headers = MutableHeaders(raw=start["headers"])
    start["headers"] = headers.raw
    headers["X-Content-Type-Options"] = "nosniff"
    if start["status"] != HTTPStatus.OK:
        return body
    headers.setdefault("Cache-Control", REVALIDATE)
    headers["Vary"] = "Accept-Encoding"
    tag = f'"{hashlib.sha256(body).hexdigest()}"'
    if len(body) >= _COMPRESS_FROM and _accepts_gzip(asked.get("accept-encoding", "")):
        tag = tag[:-1] + '-gzip"'
        headers["Content-Encoding"] = "gzip"
    headers["ETag"] = tag
    if _matches(tag, asked.getlist("if-none-match")):
        start["status"] = int(HTTPStatus.NOT_MODIFIED)
        for name in ("content-length", "content-type", "content-encoding"):
            del headers[name]
        return b""
    if "content-encoding" in headers:
        body = gzip.compress(body, compresslevel=5, mtime=0)
    headers["Content-Length"] = str(len(body))
    return body


def _matches(tag: str, tags_sent: list[str]) -> bool:
    # If-None-Match compares weakly (RFC 9110, section 13.1.2): W/ is of no account.
    tags = {item.strip().removeprefix("W/") for line in tags_sent for item in line.split(",")}
    return tag in tags or "*" in tags


def _accepts_gzip(header: str) -> bool:
    for part in header.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() == "gzip":
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", parameters)
    return False


def is_loopback(host: str) -> bool:
    """Whether a Host header (name, or name and port) names this machine."""
    name = host[1 : host.find("]")] if host.startswith("[") else host.rpartition(":")[0] or host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def parameter_problems(errors: Iterable[Any]) -> list[dict[str, str]]:
    """FastAPI's list of what did not fit, one entry per parameter and reason."""
    return [
        {"parameter": ".".join(str(part) for part in error["loc"][1:]) or "request", "detail": error["msg"]}
        for error in errors
    ]
