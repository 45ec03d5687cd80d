"""ASGI middleware that looks at each request before a screen does: from where, by whom, with which form."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, urlsplit

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.ui.access.caller import Caller, Callers
from flows.ui.changes import MOST_BYTES, MOST_FIELDS, read_body
from flows.ui.pages import is_script, refusal
from registry.api.middleware import is_loopback, problem
from registry.errors import RegistryError

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
SIGN_IN = "/signin"
FORM = "application/x-www-form-urlencoded"
CHECKED_EVERY = 5.0
"""Seconds after which a stream of events asks again whether its reader may still read."""


class Guard:
    """`local` says whether nobody has an account, so that only this machine's one person gets in."""

    def __init__(self, app: ASGIApp, callers: Callers, local: Callable[[], bool]) -> None:
        self._app = app
        self._callers = callers
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http" or _is_open(scope["path"]):
            await self._app(scope, receive, send)
        else:
            await self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            local, (caller, session) = await anyio.to_thread.run_sync(self._who, request)
        except RegistryError as error:
            await PlainTextResponse(f"{error}\n", 503, {"Retry-After": "5"})(scope, receive, send)
            return
        scope["state"] = {**scope.get("state", {}), "user": caller, "session": session}
        refused = _from_elsewhere(request, local)
        if refused is None and request.method not in SAFE and (caller is None or caller.kind != "token"):
            refused, receive = await self._form(request, caller, session)
        if refused is None and caller is None and not _is_sign_in(scope["path"]):
            refused = _unknown(request)
        if refused is not None:
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, self._while_allowed(request, send) if caller else send)

    def _who(self, request: Request) -> tuple[bool, tuple[Caller | None, str | None]]:
        return self._local(), self._callers.ask(request)

    async def _form(
        self, request: Request, caller: Caller | None, session: str | None
    ) -> tuple[Response | None, Receive]:
        """Refuse a change whose form is not of our own page; returns the body to be read once more."""
        before = self._callers.read(request, "seed") if request.url.path == SIGN_IN else None
        secret = session if caller is not None else before
        if caller is None and request.url.path != SIGN_IN:
            return _unknown(request), request.receive
        token, receive = request.headers.get("x-csrf-token"), request.receive
        if token is None:
            body = await read_body(request, MOST_BYTES)
            if body is None:
                return _refusal(request, 413, f"the form is larger than {MOST_BYTES} bytes"), request.receive
            token, receive = _field(request, body), _again(body, request.receive)
        expected = self._callers.form_token(secret) if secret is not None else None
        if expected is None or not hmac.compare_digest(token.encode("utf-8", "replace"), expected.encode()):
            message = (
                "the form is not of a page of this session, or the page is from before you signed in: "
                "load the page again and send the form again"
            )
            return _refusal(request, 403, message), receive
        return None, receive

    def _while_allowed(self, request: Request, send: Send) -> Send:
        """Ends a stream of events once its reader was revoked or signed out."""
        stream, ended, checked = False, False, time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal stream, ended, checked
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
                stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
            elif stream and not ended and time.monotonic() - checked > CHECKED_EVERY:
                checked = time.monotonic()
                if (await anyio.to_thread.run_sync(self._callers.ask, request))[0] is None:
                    ended = True
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            if not ended:
                await send(message)

        return watched


def _is_open(path: str) -> bool:
    return path == "/alive" or path.startswith("/static/")


def _is_sign_in(path: str) -> bool:
    return path == SIGN_IN or path.startswith(f"{SIGN_IN}/")


def _from_elsewhere(request: Request, local: bool) -> Response | None:
    """Refuse what a page of another site makes a browser send here."""
    host = request.headers.get("host", "")
    if local and not is_loopback(host):
        message = (
            "without accounts this answers to names of this machine only, such as localhost; "
            "`tuneline users add NAME` makes an account"
        )
        return _refusal(request, 421, message)
    if request.method in SAFE:
        return None
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    if foreign or site not in (None, "same-origin", "none"):
        return _refusal(request, 403, "this change was asked for by a page of another site")
    return None


def _unknown(request: Request) -> Response:
    path = request.url.path
    if is_script(request):
        message = "this token is of no user, or it was revoked; `tuneline users add NAME` makes one"
        return problem(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
    reads_page = request.method in SAFE and "hx-request" not in request.headers
    if not reads_page or path == "/events" or path.endswith((".json", "/events")):
        message = "sign in first: the session is over, or there was none\n"
        return PlainTextResponse(message, 401, {"HX-Redirect": SIGN_IN, "WWW-Authenticate": "Bearer"})
    target = path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(SIGN_IN if target == "/" else f"{SIGN_IN}?next={quote(target, safe='/')}", 303)


def _refusal(request: Request, status: int, message: str) -> Response:
    if "hx-request" in request.headers:
        return PlainTextResponse(f"{message}\n", status)
    return refusal(request, status, "Refused", message)


def _field(request: Request, body: bytes) -> str:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        return ""
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=MOST_FIELDS)).get("csrf", "")
    except ValueError:
        return ""


def _again(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
