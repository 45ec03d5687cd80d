"""What the application mounts.

access = Access(registry, link_token="…")           # or with accounts, or with OpenID Connect
Starlette(routes=[*screens, *access.routes], middleware=[Middleware(access.middleware)])
app.state.csrf_token, app.state.may = access.csrf_token, access.may
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import ASGIApp

from flows.ui.access.caller import Caller, Callers
from flows.ui.access.guard import Guard
from flows.ui.access.sign_in import SignIn
from registry import Registry
from registry.access.users import ROLES, Role
from registry.db.remembered import Remembered

if TYPE_CHECKING:
    from flows.ui.access.oidc import OidcSettings


class Access:
    """Access to the web interface of a registry.

    `link_token`: what opens it once for the one person of this machine, while there are no accounts; only
    where nobody else can reach the port. `secure_cookies`: it is reached through TLS.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        link_token: str | None = None,
        secure_cookies: bool = False,
        oidc: OidcSettings | None = None,
    ) -> None:
        self._registry = registry
        self._link = link_token is not None and oidc is None
        self._callers = Callers(registry, secure_cookies)
        self._remembered = Remembered(registry.database)
        provider = None
        if oidc is not None:
            from flows.ui.access.oidc import Provider  # brings Authlib, which most do without

            provider = Provider(oidc, registry, self._callers, secure_cookies)
        self.routes = SignIn(registry, self._callers, self._local, link_token, provider).routes

    def middleware(self, app: ASGIApp) -> Guard:
        """The guard around `app`."""
        return Guard(app, self._callers, self._local)

    def csrf_token(self, request: Request) -> str:
        """What a form on this page has to send as `csrf`, or htmx as X-CSRF-Token."""
        session = request.scope.get("state", {}).get("session")
        return "" if session is None else self._callers.form_token(session)

    def may(self, request: Request, role: Role) -> bool:
        """Whether who asks has that role, or one above it."""
        caller: Caller | None = request.scope.get("state", {}).get("user")
        return caller is not None and ROLES.index(caller.role) >= ROLES.index(role)

    def _local(self) -> bool:
        return self._link and not self._remembered.get("accounts", self._registry.users.exist)
