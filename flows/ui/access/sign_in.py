"""The pages of signing in and out."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flows.ui.access.caller import Callers
from flows.ui.access.throttle import Throttle
from flows.ui.changes import read_form
from flows.ui.pages import page
from registry import Registry

if TYPE_CHECKING:
    from flows.ui.access.oidc import Provider


class SignIn:
    """Lets in who has a token, who opens the link that was printed, or whom the provider names."""

    def __init__(
        self,
        registry: Registry,
        callers: Callers,
        local: Callable[[], bool],
        link_token: str | None,
        provider: Provider | None,
    ) -> None:
        self._registry = registry
        self._callers = callers
        self._local = local
        self._link_token = link_token
        self._provider = provider
        self._throttle = Throttle()

    @property
    def routes(self) -> list[Route]:
        """All of them; they need no session."""
        return [
            Route("/signin", self._page),
            Route("/signin", self._with_token, methods=["POST"]),
            Route("/signin/link", self._with_link),
            Route("/signin/oidc", self._to_provider),
            Route("/signin/oidc/callback", self._from_provider),
            Route("/signout", self._out, methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        if request.scope["state"]["user"] is not None:
            return RedirectResponse(_next(request.query_params.get("next")), 303)
        return await self._form(request, _next(request.query_params.get("next")))

    async def _form(self, request: Request, after: str, problem: str = "", status: int = 200) -> Response:
        seed = self._callers.seed(request)
        answer = page(
            request,
            "signin.html",
            status,
            csrf=self._callers.form_token(seed),
            after=after,
            problem=problem,
            local=await anyio.to_thread.run_sync(self._local),
            provider=self._provider.name if self._provider else None,
        )
        self._callers.write(answer, "seed", seed)
        return answer

    async def _with_token(self, request: Request) -> Response:
        form = await read_form(request)
        after, token = _next(form.get("next")), form.get("token", "").strip()
        keys = f"address {request.client.host if request.client else ''}", f"token {token[:16]}"
        if wait := self._throttle.wait(*keys):
            message = f"too many wrong tokens; wait {math.ceil(wait)} s"
            answer = await self._form(request, after, message, 429)
            answer.headers["Retry-After"] = str(math.ceil(wait))
            return answer
        user = await anyio.to_thread.run_sync(self._registry.users.of_token, token)
        if user is None:
            self._throttle.failed(*keys)
            message = "this token is not valid: it is wrong, or was revoked"
            return await self._form(request, after, message, 403)
        return await self.enter(request, user.name, after)

    async def _with_link(self, request: Request) -> Response:
        """The link of one person's `tuneline ui`: good once, and only while there is no account."""
        token, expected = request.query_params.get("token", ""), self._link_token
        if request.method != "GET":
            return Response(status_code=405, headers={"Allow": "GET"})
        local = await anyio.to_thread.run_sync(self._local)
        same = expected is not None and secrets.compare_digest(token.encode(), expected.encode())
        if not (local and same):
            message = (
                "this link is not valid any more: it was used, or there are accounts now; start `tuneline "
                "ui` again for another"
            )
            return await self._form(request, "/", message, 403)
        self._link_token = None
        return await self.enter(request, None, "/")

    async def _to_provider(self, request: Request) -> Response:
        if self._provider is None:
            return await self._form(request, "/", "OpenID Connect is not set up here", 404)
        return await self._provider.redirect(request, _next(request.query_params.get("next")))

    async def _from_provider(self, request: Request) -> Response:
        if self._provider is None:
            return await self._form(request, "/", "OpenID Connect is not set up here", 404)
        problem, name, after = await self._provider.identify(request)
        if name is None:
            return await self._form(request, "/", problem, 403)
        answer = await self.enter(request, name, _next(after))
        self._callers.forget(answer, "oidc")
        return answer

    async def enter(self, request: Request, name: str | None, after: str) -> Response:
        """A new session, whatever there was before: one that was planted is worth nothing."""
        before = self._callers.read(request, "session")
        session = await anyio.to_thread.run_sync(self._registry.sessions.begin, name, before)
        answer = RedirectResponse(after, 303)
        self._callers.write(answer, "session", session)
        self._callers.forget(answer, "seed")
        return answer

    async def _out(self, request: Request) -> Response:
        session = request.scope["state"]["session"]
        if session is not None:
            await anyio.to_thread.run_sync(self._registry.sessions.end, session)
        answer = RedirectResponse("/signin", 303)
        self._callers.forget(answer, "session")
        answer.headers["Clear-Site-Data"] = '"cache"'
        return answer


def _next(address: str | None) -> str:
    """Where to go afterwards: an address of ours, or the home page."""
    if address is None or not address.startswith("/") or address[1:2] in ("/", "\\"):
        return "/"
    return address if address.isprintable() and "\\" not in address else "/"
